from dataclasses import replace

import pytest

from diffpo.lab.rewrites.oracle import TASTE
from diffpo.lab.rewrites.requests import EVALUATION_REQUEST, TRAINING_REQUESTS, list_requests, prompt, split_requests
from diffpo.lab.shapes.captions import read_caption
from diffpo.lab.shapes.scenes import Attributes

FAMILIES = (*TRAINING_REQUESTS, EVALUATION_REQUEST)


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_inverts_asking(family):
    assert [read_caption(prompt(asked, family)) for asked in list_requests()] == list_requests()


def test_prompts_read_as_written_down_here():
    asked = Attributes("red", "circle", position="top")
    assert [prompt(asked, family) for family in FAMILIES] == [
        "a red circle at the top:",
        "something red like a circle at the top:",
        "circle, red, top:",
        "i want a circle that is red and at the top:",
        "at the top a circle, red:",
    ]


def test_what_is_left_open_is_not_mentioned():
    asked = Attributes(color="blue", background="navy")
    assert [prompt(asked, family) for family in FAMILIES] == [
        "a blue shape on navy:",
        "something blue on navy:",
        "blue, navy:",
        "i want a shape that is blue and on navy:",
        "on navy a shape, blue:",
    ]


def test_there_are_thirty_four_things_with_thirteen_places_backgrounds_or_sizes():
    """7 x 5 - 1 colors and shapes, and one of 5 backgrounds, 5 positions, 2 sizes or nothing."""
    assert len(list_requests()) == len(set(list_requests())) == 34 * 13


def test_each_request_leaves_two_matters_of_taste_open():
    assert all(len(TASTE - asked.stated().keys()) >= 2 for asked in list_requests())
    assert all(asked.color or asked.shape for asked in list_requests())


def test_the_parts_share_no_request_and_cover_all():
    split = split_requests()
    parts = (split.training, split.development, split.evaluation)
    assert [len(part) for part in parts] == [442 - 164, 64, 100]
    assert {asked for part in parts for asked in part} == set(list_requests())


def test_the_split_is_fixed_by_its_seed():
    assert split_requests(3) == split_requests(3)
    assert split_requests(3) != split_requests(4)


def test_the_evaluation_family_is_a_new_order_of_known_words():
    asked = [replace(request, size=size) for request in list_requests() for size in ("small", None)]
    known = {word for request in asked for family in TRAINING_REQUESTS for word in words(family(request))}
    new = {word for request in asked for word in words(EVALUATION_REQUEST(request))}
    assert new <= known
    assert not {EVALUATION_REQUEST(request) for request in asked if len(request.stated()) > 1} & {
        family(request) for request in asked for family in TRAINING_REQUESTS
    }


def words(text: str) -> list[str]:
    return text.replace(",", "").split()
