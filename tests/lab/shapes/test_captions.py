from dataclasses import replace

import numpy as np
import pytest

from diffpo.core.refusal import Refusal
from diffpo.lab.shapes.captions import EVALUATION_FAMILY, TRAINING_FAMILIES, read_caption
from diffpo.lab.shapes.scenes import Attributes, random_attributes

FAMILIES = (*TRAINING_FAMILIES, EVALUATION_FAMILY)


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_inverts_writing(family):
    rng = np.random.default_rng(0)
    for _ in range(200):
        wanted = random_attributes(rng)
        assert read_caption(family(wanted)) == wanted


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("left_out", ["color", "shape", "background", "position", "size"])
def test_reading_inverts_writing_of_what_is_left_open(family, left_out):
    wanted = replace(Attributes("red", "cross", "navy", "top", "large"), **{left_out: None})
    assert read_caption(family(wanted)) == wanted


def test_captions_read_as_written_down_here():
    wanted = Attributes("red", "circle", "white", "left", "small")
    assert [family(wanted) for family in FAMILIES] == [
        "a small red circle on the left, white background",
        "white background with a small red circle at the left",
        "picture of a circle colored red, small in size, located left, white behind it",
        "red circle, small, left, white backdrop",
        "on a white canvas one small red circle placed left",
    ]


def test_the_evaluation_family_is_unseen_in_training():
    wanted = Attributes("red", "circle", "white", "left", "small")
    trained = {word for family in TRAINING_FAMILIES for word in family(wanted).replace(",", "").split()}
    assert {"canvas", "one", "placed"} == set(EVALUATION_FAMILY(wanted).split()) - trained


def test_case_does_not_matter():
    assert read_caption("A Red Circle") == Attributes(color="red", shape="circle")


@pytest.mark.parametrize("caption", ["", "a shape", "an astronaut on a horse", "a reddish circles"])
def test_captions_that_state_nothing_are_refused(caption):
    with pytest.raises(Refusal, match="is not a caption of the tiny world; write one like"):
        read_caption(caption)


@pytest.mark.parametrize("caption", ["a red blue circle", "a red circle and a red square", "a circle and a circle"])
def test_captions_that_state_an_attribute_twice_are_refused(caption):
    with pytest.raises(Refusal, match="is not a caption of the tiny world"):
        read_caption(caption)
