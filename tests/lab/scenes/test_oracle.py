from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFilter

from diffpo.lab.scenes.oracle import KINDS, judge, measure
from diffpo.lab.scenes.scenes import Facts, Objects, Thing, draw_scene, random_facts, render


def as_jpeg(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    picture.save(written := BytesIO(), "JPEG", quality=95, subsampling=0)
    return Image.open(written)


def with_noise(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    noisy = np.asarray(picture) + rng.normal(0, 12, (48, 48, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


DAMAGE = {
    "fresh": lambda picture, rng: picture,
    "jpeg": as_jpeg,
    "noisy": with_noise,
    "soft": lambda picture, rng: picture.filter(ImageFilter.GaussianBlur(0.5)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_facts_of_renders_are_read_also_after_light_damage(damage):
    rng = np.random.default_rng(5)
    right = {kind: [] for kind in KINDS}
    for _ in range(120):
        facts = random_facts(rng, "evaluation")
        seen = measure(DAMAGE[damage](draw_scene(facts, rng), rng))
        for kind, values in judge(seen, facts).items():
            right[kind] += values
    assert all(len(values) > 30 for values in right.values())
    assert min(np.mean(values) for values in right.values()) >= 0.98


FACTS = Facts((Objects("red", "circle"), Objects("blue", "square", size="large")), "left of", "gray")
FIRST, SECOND = Thing("red", "circle", 0.25, 0.5, 0.15), Thing("blue", "square", 0.7, 0.5, 0.21)


def read(*things: Thing, background: str = "gray") -> dict[str, list[bool]]:
    return judge(measure(render(list(things), background)), FACTS)


def test_each_wrong_fact_is_the_only_one_found_wrong():
    right = {"object": [True, True], "number": [True], "size": [True], "relation": [True], "background": [True]}
    assert read(FIRST, SECOND) == right
    assert read(FIRST, SECOND, background="brown") == right | {"background": [False]}
    mirrored = Thing("red", "circle", 0.78, 0.5, 0.15), Thing("blue", "square", 0.3, 0.5, 0.21)
    assert read(*mirrored) == right | {"relation": [False]}
    small = Thing("blue", "square", 0.7, 0.5, 0.14)
    assert read(FIRST, small) == right | {"size": [False]}
    third = Thing("red", "circle", 0.2, 0.15, 0.13)
    assert read(Thing("red", "circle", 0.2, 0.6, 0.14), SECOND, third) == right | {"number": [False]}


def test_swapped_colours_are_two_wrong_objects():
    swapped = Thing("blue", "circle", 0.25, 0.5, 0.15), Thing("red", "square", 0.7, 0.5, 0.21)
    assert read(*swapped)["object"] == [False, False]
    assert read(*swapped)["relation"] == [False], "what is not there stands nowhere"


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 48, 3)).astype(np.uint8))
MERGED = render([Thing("red", "circle", 0.4, 0.5, 0.15), Thing("red", "square", 0.6, 0.5, 0.15)], "white")
BLURRED = render([FIRST], "gray").filter(ImageFilter.GaussianBlur(3))


@pytest.mark.parametrize(
    ("picture", "flaw"),
    [
        (NOISE, "background not plain"),
        (MERGED, "stretched or merged object"),
        (BLURRED, "blurred object"),
        (render([Thing("red", "circle", 0.5, 0.5, 0.04)], "gray"), "tiny object"),
    ],
)
def test_what_is_no_clean_scene_is_said(picture, flaw):
    seen = measure(picture)
    assert flaw in seen.flaws
    assert not seen.clean


def test_an_empty_picture_is_not_clean():
    seen = measure(Image.new("RGB", (48, 48), (140, 140, 140)))
    assert not seen.clean
    assert seen.background == "gray"
