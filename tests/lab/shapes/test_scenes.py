from dataclasses import replace

import numpy as np
import pytest

from diffpo.core.refusal import Refusal
from diffpo.lab.shapes.scenes import (
    BACKGROUNDS,
    EXTENT,
    HUES,
    POSITIONS,
    SHAPES,
    SIZES,
    VIVIDNESS,
    Attributes,
    Scene,
    object_color,
    random_attributes,
    random_scene,
    render,
    signed_distance,
)

SCENE = Scene(Attributes("red", "circle", "white", "center"), center=(0.5, 0.5), extent=0.25, vividness=1.0)


def pixels(scene: Scene, resolution: int = 32) -> np.ndarray:
    return np.asarray(render(scene, resolution), dtype=np.float32) / 255


def test_unstated_attributes_are_left_out():
    assert Attributes(color="red", size="small").stated() == {"color": "red", "size": "small"}
    assert Attributes().stated() == {}


def test_random_attributes_use_every_value():
    rng = np.random.default_rng(0)
    drawn = [random_attributes(rng) for _ in range(500)]
    for name, values in (("color", HUES), ("shape", SHAPES), ("background", BACKGROUNDS), ("position", POSITIONS)):
        assert {getattr(a, name) for a in drawn} == set(values)
    assert {a.size for a in drawn} == {None, *SIZES}


@pytest.mark.parametrize(("sized", "share"), [(0.0, 0.0), (1 / 3, 1 / 3), (1.0, 1.0)])
def test_size_is_stated_as_often_as_asked(sized, share):
    rng = np.random.default_rng(0)
    stated = [random_attributes(rng, sized).size is not None for _ in range(1000)]
    assert np.mean(stated) == pytest.approx(share, abs=0.05)


def test_random_scenes_stay_within_what_is_stated():
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = random_scene(random_attributes(rng), rng)
        low, high = SIZES[scene.attributes.size] if scene.attributes.size else EXTENT
        assert low <= scene.extent <= high
        assert VIVIDNESS[0] <= scene.vividness <= VIVIDNESS[1]
        assert np.abs(np.subtract(scene.center, POSITIONS[scene.attributes.position])).max() <= 0.03


def test_every_object_lies_inside_its_picture():
    reach = max(EXTENT[1], SIZES["large"][1]) + 0.03 - 1e-9
    assert all(reach <= place <= 1 - reach for position in POSITIONS.values() for place in position)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_fill_their_bounding_box(shape):
    axis = np.linspace(-1.5, 1.5, 301)
    rows, columns = np.nonzero(signed_distance(shape, axis[None, :], axis[:, None]) < 0)
    for places in (axis[rows], axis[columns]):
        assert places.min() == pytest.approx(-1, abs=0.03)
        assert places.max() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("shape", "area"), [("circle", np.pi), ("square", 4), ("triangle", 2), ("cross", 20 / 9)])
def test_shapes_have_their_area(shape, area):
    axis = np.linspace(-1.5, 1.5, 601)
    inside = signed_distance(shape, axis[None, :], axis[:, None]) < 0
    assert inside.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(area, rel=0.02)


def test_unknown_shapes_are_named():
    with pytest.raises(Refusal, match="Unknown shape 'star'; the tiny world has circle, square"):
        signed_distance("star", np.zeros(1), np.zeros(1))


def test_a_render_shows_object_and_background():
    shown = pixels(SCENE)
    assert shown.shape == (32, 32, 3)
    np.testing.assert_allclose(shown[16, 16], object_color("red", 1.0), atol=0.01)
    np.testing.assert_allclose(shown[0, 0], BACKGROUNDS["white"], atol=0.01)


def test_tint_shifts_the_background():
    shift = pixels(replace(SCENE, tint=-0.03))[0, 0] - pixels(SCENE)[0, 0]
    np.testing.assert_allclose(shift, -0.03, atol=0.005)


def test_the_covered_area_is_that_of_the_shape():
    near_black = replace(SCENE, attributes=replace(SCENE.attributes, background="black"), extent=0.2)
    red = (pixels(near_black)[..., 0] - 0.06) / (0.95 - 0.06)
    assert red.mean() == pytest.approx(np.pi * 0.2**2, rel=0.03)


def test_left_is_left_and_top_is_up():
    rng = np.random.default_rng(0)
    for position, axis in (("left", 1), ("top", 0)):
        shown = pixels(random_scene(Attributes("red", "circle", "white", position), rng))
        first, second = np.split(np.abs(shown - shown[-1, -1]).sum(-1), 2, axis=axis)
        assert first.sum() > second.sum()


def test_resolutions_show_the_same_picture():
    halved = pixels(SCENE, 64).reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - pixels(SCENE)).mean() < 0.005
