import pytest
from datasets import Dataset

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.rows import DropTies
from diffpo.text.data.completions import Completion, Segment
from diffpo.text.data.layouts import ListOf, Lists

DRAWS = Draws(0, (0,), (0,))


def row(source=None, **record):
    return (source or Lists("unused")).row(3, {"prompt": "p", **record}, lambda column: None)


def five():
    return row(responses=list("abcde"), scores=[0.1, 0.9, 0.5, 0.3, 0.7])


def test_answers_stand_best_first_with_their_scores():
    ranked = five()
    assert ranked.candidates == ("b", "e", "c", "d", "a")
    assert ranked.scores == (0.9, 0.7, 0.5, 0.3, 0.1)
    assert ranked.prompts == ("p",) * 5


def test_equal_scores_keep_their_order():
    assert row(responses=["a", "b", "c"], scores=[0.5, 1.0, 0.5]).candidates == ("b", "a", "c")


def test_scores_of_a_judge_become_shares_of_its_range():
    judged = row(Lists("unused", low=-100.0, high=100.0), responses=["a", "b"], scores=[-100, 50])
    assert judged.scores == (0.75, 0.0)


def test_a_list_of_equal_scores_is_a_tie():
    assert DropTies()(row(responses=["a", "b"], scores=[0.5, 0.5]), DRAWS) is None
    assert DropTies()(row(responses=["a", "b"], scores=[0.5, 0.4]), DRAWS)


def test_steps_become_parts():
    steps = row(Lists("unused", steps="steps"), steps=[["x ", "y"], ["z"]], scores=[0.2, 0.8])
    assert steps.candidates[0] == Completion((Segment("z", part=1),))
    assert steps.candidates[1] == Completion((Segment("x ", part=1), Segment("y", part=2)))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"responses": ["a"], "scores": [0.1, 0.2]}, "Row 3 has 1 answers and 2 scores"),
        ({"responses": [], "scores": []}, "Row 3 has 0 answers and 0 scores"),
        ({"responses": ["a", "b"], "scores": [0.1, 7.0]}, r"not all in \[0.0, 1.0\]; set low and high"),
        ({"responses": ["a", "b"], "scores": [0.1, float("nan")]}, "not all in"),
        ({"responses": ["a", "b"], "scores": ["1", "0"]}, r"Row 3 has scores \"\['1', '0'\]\" \(list\)"),
        ({"responses": ["a", "b"], "scores": [1, None]}, r"Row 3 has scores '\[1, None\]'"),
        ({"responses": ["a", "b"], "scores": [True, False]}, "Row 3 has scores"),
        ({"responses": ["a", "b"], "scores": None}, r"Row 3 has scores 'None' \(NoneType\)"),
        ({"responses": "ab", "scores": [1, 0]}, r"Row 3 has responses 'ab' \(str\); Lists takes lists of answers"),
        ({"responses": None, "scores": [1, 0]}, "Row 3 has responses 'None'"),
    ],
)
def test_a_list_that_cannot_be_ranked_is_refused(record, message):
    with pytest.raises(Refusal, match=message):
        row(**record)


@pytest.mark.parametrize("steps", [["ab", "c"], [["a"], [1]], [["a"], None]])
def test_steps_are_lists_of_texts(steps):
    with pytest.raises(Refusal, match="Row 3 has steps .*answers in steps, which are lists of texts"):
        row(Lists("unused", steps="steps"), steps=steps, scores=[0.2, 0.8])


def test_a_range_that_is_none_is_refused():
    with pytest.raises(Refusal, match="low < high, got 1.0 and 1.0"):
        Lists("unused", low=1.0, high=1.0)


def test_candidates_are_kept_at_equal_distances():
    assert ListOf(3)(five(), DRAWS).candidates == ("b", "c", "a")
    assert ListOf(2)(five(), DRAWS).scores == (0.9, 0.1)
    assert ListOf(5)(five(), DRAWS) == five()


def test_short_lists_are_dropped():
    assert ListOf(6)(five(), DRAWS) is None


def test_a_list_of_one_is_refused():
    with pytest.raises(Refusal, match="at least 2, got 1"):
        ListOf(1)


def test_a_table_is_read(tmp_path):
    file = tmp_path / "lists.parquet"
    Dataset.from_dict({"prompt": ["p"], "responses": [["a", "b"]], "scores": [[0.0, 1.0]]}).to_parquet(str(file))
    source = Lists(str(file))
    assert source.row(0, source.open()[0], lambda column: None).candidates == ("b", "a")
