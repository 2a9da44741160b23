import numpy as np
import pytest
from PIL import Image

from diffpo.lab.scenes.reading import read_facts
from diffpo.lab.scenes.scenes import Facts, Objects, Thing, draw_scene, random_facts, render

ASKED = Facts((Objects("red", "circle"), Objects("blue", "square")), "left of", "gray")
RIGHT = render([Thing("red", "circle", 0.25, 0.5, 0.15), Thing("blue", "square", 0.7, 0.5, 0.15)], "gray")
SWAPPED = render([Thing("red", "circle", 0.75, 0.5, 0.15), Thing("blue", "square", 0.3, 0.5, 0.15)], "gray")


def test_renders_read_as_asked():
    rng = np.random.default_rng(0)
    asked = [random_facts(rng, "development") for _ in range(40)]
    reading = read_facts([draw_scene(facts, rng) for facts in asked], asked)
    assert reading.right == reading.whole == reading.clean == 1
    assert not reading.flaws


def test_shares_are_over_what_was_asked():
    reading = read_facts([RIGHT, SWAPPED, Image.new("RGB", (48, 48), (140, 140, 140))], [ASKED] * 3)
    assert reading.facts["relation"] == pytest.approx(1 / 3, abs=1e-3)
    assert reading.facts["object"] == pytest.approx(2 / 3, abs=1e-3)
    assert reading.whole == pytest.approx(1 / 3, abs=1e-3)
    assert reading.clean == pytest.approx(2 / 3, abs=1e-3)
