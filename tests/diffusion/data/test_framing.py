from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from tiny import draws, picture

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.diffusion.data.framing import Framing


def test_both_sides_get_one_crop_and_one_flip():
    same = picture(seed=0, size=(50, 40))
    framing = Framing(32, random_crop=True, flip=True)
    views = [framing((same, same), Draws(0, (0,), (i,))).pixels for i in range(30)]
    assert all(torch.equal(chosen, rejected) for chosen, rejected in views)
    assert len({view[0].numpy().tobytes() for view in views}) > 8


def test_different_sizes_are_cropped_at_the_same_relative_place():
    """A vertical edge at 3/4 of the width lands on the same column, whatever the size."""

    def edge(width: int, height: int) -> Image.Image:
        picture = Image.new("L", (width, height), 0)
        picture.paste(255, (3 * width // 4, 0, width, height))
        return picture.convert("RGB")

    framed = Framing(32, random_crop=True, flip=False)((edge(96, 48), edge(192, 96)), draws(1)).pixels
    chosen, rejected = ((side[0] > 127).float().argmax(-1)[0].item() for side in framed)
    assert abs(chosen - rejected) <= 1


def test_center_crop_by_hand():
    wide = Image.new("RGB", (96, 32), "black")
    wide.paste("white", (32, 0, 64, 32))
    framed = Framing(32, flip=False)((wide, wide), draws(1)).pixels
    assert framed.shape == (2, 3, 32, 32)
    assert (framed == 255).all()


def test_framing_is_a_function_of_the_row_alone():
    same, framing = picture(seed=0, size=(50, 40)), Framing(32, random_crop=True)
    views = [framing((same, same), Draws(0, (1,), (5,))).pixels for _ in range(2)]
    assert torch.equal(*views)


@pytest.mark.parametrize("resolution", [0, -8, 500])
def test_odd_resolutions_are_refused(resolution):
    with pytest.raises(Refusal, match="positive multiple of 8"):
        Framing(resolution)


def test_time_ids_by_hand():
    """96 x 40 is resized to 77 x 32; the center crop leaves (77 - 32) / 2 = 22.5, rounded to even, on the left."""
    framed = Framing(32, flip=False)([picture(size=(96, 40)), picture(size=(20, 50))], draws(1))
    assert framed.time_ids.tolist() == [[40, 96, 0, 22, 32, 32], [50, 20, 24, 0, 32, 32]]


def test_time_ids_say_where_the_crop_is_in_the_mirrored_picture():
    whole, framing, corners = picture(seed=0, size=(50, 64)), Framing(32, random_crop=True), set()
    for i in range(20):
        mirrored = Draws(0, (0,), (i,)).uniform("flip").item() < 0.5
        (pixels,), (ids,) = framing([whole], Draws(0, (0,), (i,)))
        resized = whole.resize((32, 41), Image.Resampling.BILINEAR)
        seen = ImageOps.mirror(resized) if mirrored else resized
        top, left = ids[2:4].int().tolist()
        corners.add(top)
        assert np.array_equal(pixels.permute(1, 2, 0), seen.crop((left, top, left + 32, top + 32)))
    assert len(corners) > 4


def test_a_mirrored_crop_is_counted_from_the_other_side():
    framing, wide = Framing(32, random_crop=True), [picture(size=(96, 32))]
    plain, draw = replace(framing, flip=False), [Draws(0, (0,), (i,)) for i in range(20)]
    pairs = [(framing(wide, d).time_ids[0, 3], plain(wide, d).time_ids[0, 3], d.uniform("flip")) for d in draw]
    assert all(left == (64 - unflipped if flip < 0.5 else unflipped) for left, unflipped, flip in pairs)


SDXL = """
1408 704, 1344 704, 1344 768, 1280 768, 1216 832, 1152 832, 1152 896, 1088 896, 1088 960, 1024 960, 1024 1024,
960 1024, 960 1088, 896 1088, 896 1152, 832 1152, 832 1216, 768 1280, 768 1344, 704 1344, 704 1408"""


def test_buckets_are_those_of_the_authors_of_sdxl():
    """Between 1:2 and 2:1, at github.com/Stability-AI/generative-models, scripts/demo/sampling.py."""
    shapes = [tuple(map(int, shape.split())) for shape in SDXL.split(",")]
    assert Framing(1024, bucket_step=64).shapes == shapes


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ([(1024, 1024)] * 2, (1024, 1024)),
        ([(800, 200)] * 2, (704, 1408)),
        ([(200, 100), (100, 200)], (1024, 1024)),
        ([(300, 200)] * 2, (832, 1216)),
    ],
)
def test_a_pair_gets_the_shape_nearest_to_the_mean_of_its_aspects(sizes, shape):
    framing = Framing(1024, bucket_step=64)
    assert framing.shapes[framing.shape_of([picture(size=size) for size in sizes])] == shape


def test_pictures_fill_their_bucket_and_lose_only_what_sticks_out():
    """100 x 60 and 50 x 40 have a mean ratio of 1.44, nearest to 40 x 24: both become 40 wide, then 24 high."""
    framed = Framing(32, flip=False, bucket_step=8)([picture(size=(100, 60)), picture(size=(50, 40))], draws(1))
    assert framed.pixels.shape == (2, 3, 24, 40)
    assert framed.time_ids.tolist() == [[60, 100, 0, 0, 24, 40], [40, 50, 4, 0, 24, 40]]


@pytest.mark.parametrize("step", [0, 12, 24])
def test_odd_steps_are_refused(step):
    with pytest.raises(Refusal, match="bucket_step must be a positive multiple of 8 that divides .* 32, got"):
        Framing(32, bucket_step=step)
