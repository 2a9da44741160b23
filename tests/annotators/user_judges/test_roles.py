import pytest
from tiny_judges import question

from diffpo.annotators.user_judges.roles import PairVerdict, Verdict, format_summaries, summarize_verdicts
from diffpo.core.refusal import Refusal

OURS, THEIRS = PairVerdict(Verdict(1), Verdict(2)), PairVerdict(Verdict(2), Verdict(1))
FIRST, SECOND = PairVerdict(Verdict(1), Verdict(1)), PairVerdict(Verdict(2), Verdict(2))
UNCLEAR = PairVerdict(Verdict(1), Verdict(None, "well", 2))


def test_a_win_takes_both_orders():
    assert [heard.outcome for heard in (OURS, THEIRS, FIRST, SECOND, UNCLEAR)] == [1.0, 0.0, 0.5, 0.5, 0.5]
    assert [heard.is_contradictory for heard in (OURS, FIRST, SECOND, UNCLEAR)] == [False, True, True, False]


def test_turning_the_models_around_turns_the_outcome_around():
    for heard in (OURS, THEIRS, FIRST, SECOND, UNCLEAR):
        assert PairVerdict(heard.turned, heard.straight).outcome == 1 - heard.outcome


def test_a_judge_that_always_says_one_has_only_ties():
    found = summarize_verdicts({"ann": [FIRST] * 3, "bob": [FIRST]})
    assert (found["wins"], found["ties"], found["losses"], found["inconsistent"], found["first"]) == (
        0,
        4,
        0,
        1.0,
        1.0,
    )
    assert (found["win_rate"], found["win_rate_low"], found["win_rate_high"]) == (0.5, 0.5, 0.5)


def test_users_count_alike_however_many_pairs_they_have():
    """Ann has 1 of 1, Bob 1/4 of 4: the mean of both is 5/8, of all pairs 2/5."""
    found = summarize_verdicts({"ann": [OURS], "bob": [OURS, THEIRS, THEIRS, THEIRS]})
    assert found["win_rate"] == 0.625
    assert found["users"] == 2
    assert found["per_user"]["bob"]["win_rate"] == 0.25
    assert 0.25 <= found["win_rate_low"] < 0.625 < found["win_rate_high"] <= 1


def test_what_names_no_picture_is_counted_and_is_no_bias():
    found = summarize_verdicts({"ann": [UNCLEAR, OURS]})
    assert (found["unparsed"], found["retried"], found["inconsistent"]) == (1, 1, 0.0)
    assert found["first"] == 2 / 3


def test_unreadable_pairs_are_left_out_and_so_is_a_user_without_others():
    found = summarize_verdicts({"ann": [None, OURS], "bob": [None]})
    assert (found["pairs"], found["unreadable"], found["users"], found["win_rate"]) == (1, 2, 1, 1.0)
    assert found["per_user"]["bob"]["win_rate"] is None
    with pytest.raises(Refusal, match="Each of 2 pairs, or its support, has a picture that cannot be read"):
        summarize_verdicts({"ann": [None, None]})


def test_an_example_shows_the_preferred_picture_where_it_says():
    for example in question(support=2).support:
        assert example.pictures[example.preferred - 1] is example.shown.liked
        assert example.pictures[2 - example.preferred] is example.shown.disliked


def test_the_table_has_a_line_for_each_summary():
    [head, line] = format_summaries({"models": summarize_verdicts({"ann": [OURS, FIRST]})}).splitlines()
    names = "users win rate pairs wins ties losses inconsistent first unparsed unreadable"
    assert " ".join(head.split()) == names
    said = "models 1 75.0% [75.0%, 75.0%] 2 1 1 0 50.0% 75.0% 0 0"
    assert " ".join(line.split()) == said
