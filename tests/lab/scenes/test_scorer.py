import pytest

from diffpo.core.refusal import Refusal
from diffpo.lab.scenes.scenes import Thing, render
from diffpo.lab.scenes.scorer import SceneOracle

PROMPT = "a red circle left of a blue square, gray background"
RIGHT = render([Thing("red", "circle", 0.25, 0.5, 0.15), Thing("blue", "square", 0.7, 0.5, 0.15)], "gray")
SWAPPED = render([Thing("red", "circle", 0.75, 0.5, 0.15), Thing("blue", "square", 0.3, 0.5, 0.15)], "gray")
EMPTY = render([], "gray")


def test_the_oracle_prefers_right_to_wrong_to_nothing():
    right, swapped, empty = SceneOracle()([PROMPT] * 3, [RIGHT, SWAPPED, EMPTY]).tolist()
    assert right > swapped > empty == -1


def test_aspects_say_why():
    aspects = SceneOracle().aspects([PROMPT] * 3, [RIGHT, SWAPPED, EMPTY])
    assert aspects["facts"].tolist() == pytest.approx([1, 0.8, 0.2])  # objects twice, number, relation, background
    assert aspects["whole"].tolist() == [1, 0, 0]
    assert aspects["clean"].tolist() == [1, 1, 0]
    assert aspects["style"][2] == 0


def test_prompts_of_another_world_are_refused():
    with pytest.raises(Refusal, match="no caption of the scenes"):
        SceneOracle().check([PROMPT, "a photo of a cat"])
