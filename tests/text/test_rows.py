import math
from pathlib import Path

import pytest

from diffpo.cells import Held
from diffpo.draws import Draws
from diffpo.refusal import Refusal
from diffpo.rows import PairRow
from diffpo.text.completions import Completion, Segment
from diffpo.text.rows import DropEmpty, DropIdentical, ReadTexts, RequireNumbers, length

DRAWS = Draws(0, (0,), (0,))
CHAT = [{"role": "user", "content": "hi"}]


def row(*candidates, prompt="p", **changed) -> PairRow:
    return PairRow(3, (prompt,) * len(candidates), candidates, **changed)


def test_cells_become_what_they_hold():
    read = ReadTexts()(row(Held("yes", Path()), "no"), DRAWS)
    assert read is not None
    assert read.candidates == ("yes", "no")


def test_rows_without_scores_get_one_zero_for_each_candidate():
    filled = RequireNumbers()(row("a", "b", "c"), DRAWS)
    assert filled is not None
    assert filled.scores == (0.0, 0.0, 0.0)


def test_scores_have_to_be_as_many_as_candidates():
    with pytest.raises(Refusal, match="Row 3 has 2 scores and 3 candidates"):
        RequireNumbers()(row("a", "b", "c", scores=(1.0, 0.0)), DRAWS)


@pytest.mark.parametrize("wrong", [7, {"role": "user"}, [], [{"content": "hi"}]])
def test_what_is_no_text_is_refused_with_its_row(wrong):
    with pytest.raises(Refusal, match="Row 3 has a candidate that is neither a text nor a list of messages"):
        ReadTexts()(row("a", wrong), DRAWS)
    with pytest.raises(Refusal, match="Row 3 has a prompt"):
        ReadTexts()(row("a", "b", prompt=wrong), DRAWS)


@pytest.mark.parametrize("empty", [None, "", " \n", Completion(()), [{"role": "assistant", "content": ""}]])
def test_rows_of_which_one_candidate_is_empty_are_dropped(empty):
    assert DropEmpty()(row("a", empty), DRAWS) is None
    assert DropEmpty()(row("a", "b"), DRAWS) == row("a", "b")


def test_rows_whose_candidates_are_the_same_are_dropped():
    assert DropIdentical()(row("a", "a"), DRAWS) is None
    assert DropIdentical()(row(CHAT, CHAT), DRAWS) is None
    for kept in (row("a", "b"), row("a"), row("a", "b", "a"), PairRow(0, ("p", "q"), ("a", "a"))):
        assert DropIdentical()(kept, DRAWS) == kept


@pytest.mark.parametrize("wrong", [{"weight": math.nan}, {"prob": math.nan}, {"scores": (0.0, math.inf)}])
def test_numbers_have_to_be_finite(wrong):
    with pytest.raises(Refusal, match="Row 3 has .*no finite number"):
        RequireNumbers()(row("a", "b", **wrong), DRAWS)


def test_the_length_of_a_row_is_that_of_its_longest_candidate_with_its_prompt():
    assert length(row("a", Completion((Segment("bc"), Segment("d"))), prompt="pp")) == 5
    assert length(row("a", "b", prompt=CHAT)) == 3
