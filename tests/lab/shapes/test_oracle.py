from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from tiny import picture

from diffpo.lab.shapes.oracle import Measurement, measure, noisy_label, style, utility
from diffpo.lab.shapes.scenes import Attributes, Scene, random_attributes, random_scene, render

RED = Attributes("red", "circle", "white", "center")
SCENE = Scene(RED, center=(0.5, 0.5), extent=0.2, vividness=0.8)


def line() -> Image.Image:
    drawn = Image.new("RGB", (32, 32), "white")
    ImageDraw.Draw(drawn).line((4, 16, 24, 16), fill="blue")
    return drawn


def two_objects() -> Image.Image:
    rng = np.random.default_rng(0)
    left, right = (random_scene(replace(RED, position=place, size="small"), rng) for place in ("left", "right"))
    both = render(replace(left, tint=0.0, vividness=0.8))
    both.paste(render(replace(right, tint=0.0, vividness=0.8)).crop((16, 0, 32, 32)), (16, 0))
    return both


def test_fresh_renders_are_read_right():
    rng = np.random.default_rng(0)
    scenes = [random_scene(random_attributes(rng), rng) for _ in range(300)]
    seen = [measure(render(scene)) for scene in scenes]
    assert np.mean([m.clean for m in seen]) >= 0.99
    assert np.mean([m.right(scene.attributes) for m, scene in zip(seen, scenes, strict=True)]) >= 0.99


def test_extent_and_vividness_are_measured():
    rng = np.random.default_rng(1)
    for _ in range(30):
        scene = random_scene(random_attributes(rng), rng)
        seen = measure(render(scene))
        assert seen.extent == pytest.approx(scene.extent, abs=0.02)
        assert seen.vividness == pytest.approx(scene.vividness, abs=0.05)


def test_the_size_of_a_picture_does_not_matter():
    rng = np.random.default_rng(2)
    for _ in range(50):
        scene = random_scene(random_attributes(rng, sized=1.0), rng)
        small, large = (measure(render(scene, resolution)) for resolution in (32, 64))
        assert small.seen == large.seen == scene.attributes
        assert small.extent == pytest.approx(large.extent, abs=0.02)
        assert small.vividness == pytest.approx(large.vividness, abs=0.03)


@pytest.mark.parametrize(
    ("shown", "flaw"),
    [
        (picture("gray", (32, 32)), "nothing stands out"),
        (two_objects(), "more than one object"),
        (line(), "only a line"),
        (render(replace(SCENE, extent=0.04)), "too small or too large"),
        (render(replace(SCENE, vividness=0.05), 32), "nothing stands out|no color"),
        (Image.fromarray(np.linspace(0, 255, 3072).astype(np.uint8).reshape(32, 32, 3)), ""),
    ],
)
def test_what_is_no_clean_object_is_said_why(shown, flaw):
    seen = measure(shown)
    assert not seen.clean
    assert any(part in seen.flaw for part in flaw.split("|"))
    assert seen.seen == Attributes()


@pytest.mark.parametrize("seed", range(10))
def test_noise_is_never_clean(seed):
    assert not measure(picture(size=(32, 32), seed=seed)).clean


@pytest.mark.parametrize("extent", [0.15, 0.18, 0.2])
def test_heavy_blur_is_not_clean(extent):
    blurred = render(replace(SCENE, extent=extent)).filter(ImageFilter.GaussianBlur(8))
    assert not measure(blurred).clean


def test_light_blur_is_forgiven():
    assert measure(render(SCENE).filter(ImageFilter.GaussianBlur(0.7))).right(RED) == 1


def test_right_counts_what_is_stated():
    seen = Measurement(clean=True, seen=Attributes("red", "circle", "white", "left"))
    assert seen.right(Attributes(color="red", position="right")) == 0.5
    assert seen.right(Attributes(color="blue", size="small")) == 0.0


def test_utility_adds_style_to_what_is_right():
    seen = Measurement(clean=True, seen=replace(RED, size=None), extent=0.21, vividness=0.725)
    assert utility(seen, RED) == pytest.approx(1 + 0.5)
    assert utility(seen, replace(RED, color="blue")) == pytest.approx(0.75 + 0.5)


def test_without_a_clean_object_utility_is_minus_one():
    seen = measure(picture("gray"))
    assert utility(seen, RED) == -1.0
    assert style(seen, RED) == 0.0


def test_even_a_wrong_object_beats_none():
    assert utility(Measurement(clean=True, seen=Attributes()), RED) == 0.0


def test_style_rises_with_vividness():
    styles = [style(measure(render(replace(SCENE, vividness=v))), RED) for v in (0.45, 0.6, 0.75, 0.9, 1.0)]
    assert styles == sorted(styles)
    assert styles[-1] - styles[0] > 0.4


def test_size_is_a_matter_of_taste_only_where_it_is_open():
    small, large = (Measurement(True, RED, extent=extent, vividness=0.8) for extent in (0.16, 0.26))
    assert style(large, RED) > style(small, RED)
    assert style(large, replace(RED, size="small")) == style(small, replace(RED, size="small"))


def frequencies(gap: float, n: int = 20_000, **settings: float) -> dict[float, float]:
    rng = np.random.default_rng(0)
    labels = [noisy_label(gap, rng, **settings) for _ in range(n)]
    return {value: labels.count(value) / n for value in (1.0, 0.0, 0.5)}


@pytest.mark.parametrize("gap", [0.0, 0.1, -0.3])
def test_labels_follow_rao_and_kupper(gap):
    """P(first) = p1 / (p1 + theta p2) with worths p = exp(u / temperature), theta = exp(tie)."""
    first, second, theta = np.exp(gap / 0.1), 1.0, np.exp(0.2)
    expected = {1.0: first / (first + theta * second), 0.0: second / (second + theta * first)}
    seen = frequencies(gap)
    assert seen[1.0] == pytest.approx(expected[1.0], abs=0.015)
    assert seen[0.0] == pytest.approx(expected[0.0], abs=0.015)
    assert seen[0.5] == pytest.approx(1 - sum(expected.values()), abs=0.015)


def test_exchanging_the_sides_exchanges_the_labels():
    one, other = frequencies(0.1), frequencies(-0.1)
    assert one[1.0] == pytest.approx(other[0.0], abs=0.015)
    assert one[0.5] == pytest.approx(other[0.5], abs=0.015)


def test_without_a_threshold_nothing_ties():
    assert frequencies(0.0, n=1000, tie=0.0)[0.5] == 0.0


def test_a_clean_object_against_none_always_wins():
    assert frequencies(1.5 - -1.0, n=1000)[1.0] == 1.0
