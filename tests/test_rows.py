import math
from dataclasses import replace

import pytest

from diffpo.draws import Draws
from diffpo.rows import BreakTies, DropPromptless, DropTies, PairRow, Reverse, ScoreLabel, Smooth, Weight

DRAWS = Draws(0, (0,), (3,))
ROW = PairRow(3, ("w", "l"), ("win", "lose"), extra={"score_chosen": 2.0, "score_rejected": 6.0, "weight": 0.25})
TIE = replace(ROW, prob=0.5)


def test_drop_ties():
    assert DropTies()(TIE, DRAWS) is None
    assert DropTies()(ROW, DRAWS) is ROW


def test_break_ties_is_fixed_by_seed_and_row_and_fair():
    winners = [BreakTies()(TIE, Draws(0, (0,), (i,))).candidates[0] for i in range(400)]
    assert winners == [BreakTies()(TIE, Draws(0, (0,), (i,))).candidates[0] for i in range(400)]
    assert 150 < winners.count("win") < 250
    assert BreakTies()(TIE, DRAWS).prob == 1.0
    assert BreakTies()(ROW, DRAWS) is ROW


def test_drop_promptless_keeps_empty_prompts():
    assert DropPromptless()(replace(ROW, prompts=("a", None)), DRAWS) is None
    assert DropPromptless()(replace(ROW, prompts=("", "")), DRAWS) is not None


def test_score_label_orders_by_score():
    row = ScoreLabel()(ROW, DRAWS)
    assert row.candidates == ("lose", "win")
    assert row.prompts == ("l", "w")
    assert row.scores == (6.0, 2.0)


def test_score_label_by_hand():
    """Scores 2 and 6 normalised by [0, 8] differ by 0.5; over temperature 0.25 that is sigmoid(2)."""
    row = ScoreLabel(low=0.0, high=8.0, temperature=0.25)(ROW, DRAWS)
    assert row.prob == pytest.approx(1 / (1 + math.exp(-2)))


def test_equal_scores_are_a_tie():
    level = replace(ROW, extra={"score_chosen": 1, "score_rejected": 1})
    assert ScoreLabel()(level, DRAWS).prob == 0.5


def test_missing_score_names_column_row_and_script():
    with pytest.raises(
        ValueError, match=r"ScoreLabel needs column 'ps', row 3 .* score_chosen.*scripts/score_pairs.py"
    ):
        ScoreLabel(columns=("ps", "score_rejected"))(ROW, DRAWS)


def test_score_label_refuses_an_empty_range():
    with pytest.raises(ValueError, match="low < high"):
        ScoreLabel(low=1.0, high=1.0)


def test_smooth_by_hand_and_neutral():
    assert Smooth(0.1)(ROW, DRAWS).prob == pytest.approx(0.9)
    assert Smooth(0.1)(replace(ROW, prob=0.8), DRAWS).prob == pytest.approx(0.74)
    assert Smooth(0.0)(ROW, DRAWS) == ROW


def test_reverse_swaps_rows_and_keeps_certainty():
    sure = replace(ROW, prob=0.8, scores=(6.0, 2.0))
    back = Reverse()(sure, DRAWS)
    assert (back.candidates, back.prompts, back.scores) == (("lose", "win"), ("l", "w"), (2.0, 6.0))
    assert back.prob == 0.8
    assert Reverse()(back, DRAWS) == sure


def test_weight_reads_its_column():
    assert Weight()(ROW, DRAWS).weight == 0.25
