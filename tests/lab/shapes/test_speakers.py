import numpy as np
import pytest
from PIL import Image

from diffpo.annotators.captioners.roles import Strength
from diffpo.lab.shapes.captions import EVALUATION_FAMILY, read_caption
from diffpo.lab.shapes.scenes import Attributes, random_scene, render
from diffpo.lab.shapes.speakers import Misstate, OracleCaptioner

ASKED = Attributes("red", "circle", "white", "left")
TEXT = "a red circle on the left, white background"


def picture(attributes: Attributes) -> Image.Image:
    return render(random_scene(attributes, np.random.default_rng(0)))


def test_the_captioner_states_what_is_in_the_picture_in_several_ways():
    captions = OracleCaptioner()([picture(ASKED)] * 20, [""] * 20, range(20))
    assert all(read_caption(caption).stated().items() >= ASKED.stated().items() for caption in captions)
    assert len(set(captions)) >= 3
    assert EVALUATION_FAMILY(read_caption(captions[0])) not in captions


def test_it_has_nothing_to_say_of_a_picture_without_an_object():
    assert OracleCaptioner()([Image.new("RGB", (32, 32), "red")], [""], [0]) == [""]


@pytest.mark.parametrize(("strength", "wrong"), [(Strength.weak, 0), (Strength.medium, 1), (Strength.strong, 2)])
def test_strength_is_how_much_of_a_caption_becomes_wrong(strength, wrong):
    for text in Misstate()([TEXT] * 20, strength, range(20)):
        stated = read_caption(text).stated()
        assert stated.keys() == ASKED.stated().keys()
        assert sum(stated[name] != value for name, value in ASKED.stated().items()) == wrong


def test_the_same_seed_says_the_same():
    assert Misstate()([TEXT] * 2, Strength.strong, [3, 3]) == Misstate()([TEXT] * 2, Strength.strong, [3, 3])
    assert len(set(Misstate()([TEXT] * 9, Strength.weak, range(9)))) > 2
