import io

import numpy as np
import pytest
from PIL import Image
from tiny import picture

from diffpo.pictures import BrokenImage, image_size, read_image

RED = (255, 0, 0)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_bytes_paths_mappings_and_pictures_are_all_read(tmp_path):
    picture("red").save(tmp_path / "a.png")
    data = encoded(picture("red"))
    for value in (
        data,
        "a.png",
        str(tmp_path / "a.png"),
        {"bytes": data, "path": None},
        {"bytes": None, "path": "a.png"},
        picture("red"),
    ):
        assert read_image(value, tmp_path).getpixel((0, 0)) == RED


@pytest.mark.parametrize("value", [b"", b"not a picture", "nowhere.png", None, {"bytes": None, "path": None}, 7])
def test_what_cannot_be_read_is_a_broken_image(value):
    with pytest.raises(BrokenImage):
        read_image(value)


def test_a_picture_cut_short_is_broken():
    data = encoded(picture(seed=0))
    with pytest.raises(BrokenImage):
        read_image(data[: len(data) // 2])


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (255, 0, 0, 255))
    read = read_image(encoded(clear))
    assert [read.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), RED]


@pytest.mark.parametrize(
    ("image", "want"),
    [
        (Image.new("L", (2, 2), 128), (128, 128, 128)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 128 * 256, np.uint16)), (128, 128, 128)),
        (picture("red").convert("P"), RED),
    ],
)
def test_grey_palette_and_16_bit_become_rgb(image, want):
    assert read_image(encoded(image)).getpixel((0, 0)) == want


def test_cmyk_becomes_rgb():
    read = read_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(np.subtract(read.getpixel((0, 0)), RED)).max() <= 3


def test_camera_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture(size=(20, 10)).save(buffer, "JPEG", exif=exif)
    assert read_image(buffer.getvalue()).size == (10, 20)


def test_sizes_come_from_headers():
    data = encoded(picture(seed=0, size=(50, 40)))
    assert image_size(data[:60]) == image_size(picture(size=(50, 40))) == (50, 40)
    with pytest.raises(BrokenImage):
        image_size(b"")
