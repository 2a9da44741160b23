import base64
import io
import random
import struct
import zlib
from contextlib import suppress

import numpy as np
import PIL
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngImageFile
from tiny import picture

from diffpo.data.files.pictures import DAMAGE, FORMATS, BrokenImage, image_size, read_image

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


DATA = encoded(picture("red"))
WRAPPED = {
    "bare": lambda value: value,
    "bytes": lambda value: {"bytes": value, "path": None},
    "bytes first": lambda value: {"path": "other.png", "bytes": value},
    "data and format": lambda value: {"data": value, "format": "png"},
    "path": lambda value: {"path": value},
    "null bytes": lambda value: {"bytes": None, "path": value},
    "src": lambda value: {"src": value, "height": 32, "width": 40},
    "url": lambda value: {"url": value},
    "list": lambda value: [value],
    "list of a struct": lambda value: [{"bytes": value}],
}
INLINE = f"data:image/png;base64,{base64.b64encode(DATA).decode()}"


@pytest.mark.parametrize("wrap", WRAPPED)
def test_a_picture_is_found_in_structs_and_lists_of_one(tmp_path, wrap):
    (tmp_path / "a.png").write_bytes(DATA)
    for value in (DATA, "a.png", tmp_path / "a.png", INLINE, picture("red")):
        assert read_image(WRAPPED[wrap](value), tmp_path).getpixel((0, 0)) == RED
        assert image_size(WRAPPED[wrap](value), tmp_path) == (40, 32)


BASE64 = base64.b64encode(encoded(picture(seed=0, size=(300, 300)))).decode()
NO_PICTURES = {
    "address": ("https://example.org/a/very/long/name.png", r"is an address; download the pictures"),
    "address in a struct": ({"src": "HTTP://example.org/a.png"}, r"'HTTP://example.org/a.png' is an address"),
    "file address": ("file:///a.png", "is an address"),
    "base64": (BASE64, r"there is no file 'iVBOR.*'; of base64 \(\d+ characters\), store the bytes"),
    "short base64": (BASE64[:200], "there is no file 'iVBOR"),
    "nested numbers": ([[[1, 2, 3]] * 64] * 64, r"it is \[\[\[1, 2, 3\].*, of type list, not a picture's bytes"),
    "numbers": (np.zeros((64, 64, 3), np.uint8), "of type ndarray, not a picture's"),
    "two pictures": ([DATA, DATA], r"of type list, not a picture's"),
    "none": ([], r"it is \[\], of type list"),
    "another struct": ({"image": DATA, "a" * 500: 1}, "of type dict, not a picture's"),
    "null in a list": ([None], "it is null"),
    "null struct": ({"bytes": None}, "it is null"),
    "null data": ({"data": None, "format": "png"}, "it is null"),
    "wrong base64": ("data:image/png;base64,ä" + "A" * 1000, "Error: "),
    "text inline": ("data:image/svg+xml,<svg>" + "A" * 1000, "there is no file 'data:image/svg"),
    "folder": (".", "there is no file '.'"),
    "nul": ("a\0b.png", "there is no file"),
    "number": (7.5, "it is 7.5, of type float"),
}


@pytest.mark.parametrize("kind", NO_PICTURES)
def test_what_is_no_picture_is_told_in_a_short_line(tmp_path, kind):
    value, said = NO_PICTURES[kind]
    for read in (read_image, image_size):
        with pytest.raises(BrokenImage, match=said) as caught:
            read(value, tmp_path)
        assert len(str(caught.value)) <= 200
        assert "\n" not in str(caught.value)


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


COLOR, GREY = (200, 100, 50), 124  # the grey that Pillow makes of it
PLAIN = Image.new("RGB", (16, 16), COLOR)


def numbers(mode: str, value: float, dtype: str) -> Image.Image:
    return Image.frombytes(mode, (16, 16), np.full((16, 16), value, dtype).tobytes())


def lab() -> Image.Image:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    found = ImageCms.profileToProfile(PLAIN, *profiles, outputMode="LAB")
    assert found is not None
    return found


MODES = {
    "1": (Image.new("1", (16, 16), 1), (255,) * 3),
    "L": (PLAIN.convert("L"), (GREY,) * 3),
    "LA": (PLAIN.convert("LA"), (GREY,) * 3),
    "La": (PLAIN.convert("LA").convert("La"), (GREY,) * 3),
    "P": (PLAIN.convert("P", palette=Image.Palette.ADAPTIVE), COLOR),
    "PA": (PLAIN.convert("P", palette=Image.Palette.ADAPTIVE).convert("PA"), COLOR),
    "RGBA": (PLAIN.convert("RGBA"), COLOR),
    "RGBa": (PLAIN.convert("RGBA").convert("RGBa"), COLOR),
    "RGBX": (PLAIN.convert("RGBX"), COLOR),
    "CMYK": (PLAIN.convert("CMYK"), COLOR),
    "YCbCr": (PLAIN.convert("YCbCr"), COLOR),
    "HSV": (PLAIN.convert("HSV"), COLOR),
    "LAB": (lab(), COLOR),
    "I;16": (numbers("I;16", GREY * 256 + 9, "<u2"), (GREY,) * 3),
    "I;16L": (numbers("I;16L", GREY * 256, "<u2"), (GREY,) * 3),
    "I;16B": (numbers("I;16B", GREY * 256, ">u2"), (GREY,) * 3),
    "I of 16 bits": (numbers("I", GREY * 256, "<i4"), (GREY,) * 3),
    "I of 8 bits": (numbers("I", GREY, "<i4"), (GREY,) * 3),
    "F to 255": (numbers("F", GREY, "<f4"), (GREY,) * 3),
    "F to 1": (numbers("F", GREY / 255, "<f4"), (GREY,) * 3),
}
LOSSLESS, LOSSY = ("PNG", "TIFF", "GIF", "BMP"), ("JPEG", "WEBP", "AVIF")
# What Pillow writes of these is another picture: it cuts 16 bits to 8, or writes them in the other order.
WRONG = {(mode, kind) for mode in MODES if mode[0] in "IF" for kind in ("GIF", "WEBP", "AVIF")}
if int(PIL.__version__.partition(".")[0]) < 13:  # it writes PNGs of 32 bits with 16, and TIFFs that it cannot read
    WRONG |= {("I of 8 bits", "PNG"), ("YCbCr", "TIFF")}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb_whatever_file_it_comes_from(mode):
    image, want = MODES[mode]
    assert np.abs(np.subtract(read_image(image).getpixel((3, 3)), want)).max() <= (mode in ("YCbCr", "LAB"))
    for kind in {*LOSSLESS, *LOSSY}:
        try:
            data = encoded(image, kind)
        except (OSError, KeyError, ValueError):  # formats do not take every mode
            continue
        if (mode, kind) not in WRONG:
            read = read_image(data)
            assert (read.mode, read.size) == ("RGB", (16, 16))
            off = np.abs(np.subtract(read.getpixel((3, 3)), want)).max()
            assert off <= (6 if kind in LOSSY else 2 if mode in ("YCbCr", "LAB") else 0), kind


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "I;16"])
def test_a_transparent_colour_is_white(mode):
    image = MODES["I;16"][0] if mode == "I;16" else PLAIN.convert(mode)
    shown = image.getpixel((0, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=shown)
    assert read_image(buffer.getvalue()).getpixel((0, 0)) == (255, 255, 255)
    if mode != "1":
        buffer = io.BytesIO()
        image.save(buffer, "PNG", transparency=1 if isinstance(shown, int) else (1, 1, 1))
        assert read_image(buffer.getvalue()).getpixel((0, 0)) == read_image(encoded(image)).getpixel((0, 0))


@pytest.mark.parametrize(
    ("mode", "values", "dtype"),
    [
        ("I", (0, 65536), "<i4"),
        ("I", (-1, 200), "<i4"),
        ("F", (0.0, 255.5), "<f4"),
        ("F", (-0.1, 1.0), "<f4"),
        ("F", (0.0, np.nan), "<f4"),
        ("F", (0.0, np.inf), "<f4"),
    ],
)
def test_numbers_that_are_no_picture_are_broken(mode, values, dtype):
    image = Image.frombytes(mode, (2, 1), np.array(values, dtype).tobytes())
    with pytest.raises(BrokenImage, match=rf"its numbers \(mode {mode}\) go from .* which is no range of a picture"):
        read_image(image)


@pytest.mark.parametrize(("mode", "dtype", "white"), [("I", "<i4", 65535), ("I", "<i4", 255), ("F", "<f4", 1)])
def test_numbers_keep_their_order(mode, dtype, white):
    values = np.linspace(0, white, 256)
    row = Image.frombytes(mode, (256, 1), values.astype(dtype).tobytes())
    read = np.asarray(read_image(row))[0, :, 0].astype(int)
    assert np.abs(read - np.arange(256)).max() <= 1
    assert (np.diff(read) >= 0).all()


@pytest.mark.parametrize("kind", ["EPS", "QOI", "DDS", "PPM", "TGA", "JPEG2000", "ICO", "PCX", "SGI", "PDF", "MSP"])
def test_formats_that_are_not_on_the_list_are_broken(kind):
    """Pillow reads them; EPS starts Ghostscript, and decoders of old formats fail in ways of their own."""
    image = PLAIN.convert("1") if kind == "MSP" else PLAIN
    try:
        data = encoded(image, kind)
    except KeyError:
        pytest.skip("the installed Pillow does not write it")
    with pytest.raises(BrokenImage, match="UnidentifiedImageError"):
        read_image(data)
    with pytest.raises(BrokenImage, match="UnidentifiedImageError"):
        image_size(data)


@pytest.mark.parametrize("error", DAMAGE)
def test_every_error_of_a_decoder_is_a_broken_picture(monkeypatch, error):
    def broken(self):
        raise error("deep in a decoder")

    data = encoded(PLAIN, "PNG")
    monkeypatch.setattr(PngImageFile, "load", broken)
    with pytest.raises(BrokenImage, match=f"{error.__name__}: .*deep in a decoder"):
        read_image(data)


@pytest.mark.parametrize("kind", FORMATS)
def test_mutated_pictures_decode_or_are_broken(kind):
    rng, whole = random.Random(kind), encoded(Image.effect_noise((48, 48), 50).convert("RGB"), kind)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 3, 30])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        cut = bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
        with suppress(BrokenImage):
            assert read_image(cut).mode == "RGB"
        with suppress(BrokenImage):
            image_size(cut)


def declared(width: int, height: int) -> bytes:
    """The beginning of a PNG of that size, without pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100))


@pytest.mark.parametrize("size", [(100_000, 1000), (12_000, 12_000)])
def test_too_many_pixels_are_refused_by_the_header_alone(size):
    told = "it has {} x {} pixels, more than the 89,478,485 of the source's most_pixels".format(*size)
    for look in (read_image, image_size):
        with pytest.raises(BrokenImage, match=told):
            look(declared(*size))


def test_the_bound_can_be_chosen():
    data = encoded(PLAIN, "PNG")
    assert read_image(data, most=256).size == (16, 16)
    with pytest.raises(BrokenImage, match="it has 16 x 16 pixels, more than the 255"):
        read_image(data, most=255)


def test_a_path_of_data_stays_in_their_folder(tmp_path):
    (tmp_path / "data").mkdir()
    PLAIN.save(tmp_path / "secret.png")
    PLAIN.save(tmp_path / "data" / "a.png")
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret.png")
    assert read_image("a.png", tmp_path / "data").size == (16, 16)
    assert read_image(str(tmp_path / "secret.png")).size == (16, 16)  # named by who calls, not by data
    for path in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        for value in (path, {"path": path, "bytes": None}, [path]):
            with pytest.raises(BrokenImage, match="lies outside of .*; let the source's `images` name a folder that"):
                read_image(value, tmp_path / "data")
