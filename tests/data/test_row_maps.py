import json
import math
from dataclasses import replace

import pytest
import torch

from diffpo.core.draws import Draws
from diffpo.core.pair import PairLabels, PairLogps
from diffpo.core.refusal import Refusal
from diffpo.data.row_maps import ExpWeight, Mislabel, ScoreLabel, Smooth
from diffpo.data.rows import BreakTies, PairRow, apply_maps
from diffpo.losses.combined import Confidence
from diffpo.losses.logistic import Sigmoid

DRAWS = Draws(0, (0,), (3,))
ROW = PairRow(3, ("w", "l"), ("win", "lose"), extra={"score_chosen": 2.0, "score_rejected": 6.0})
TIE = replace(ROW, prob=0.5)


@pytest.fixture
def scored(tmp_path):
    """A folder whose scores.json says other than the usual things."""

    def write(**said):
        summary = {"scorer": "taste", "model_id": "a", "min": 0.0, "max": 8.0, **said}
        kept = {name: value for name, value in summary.items() if value is not None}
        (tmp_path / "scores.json").write_text(json.dumps(kept))
        return str(tmp_path)

    return write


def test_score_label_orders_by_score():
    row = ScoreLabel()(ROW, DRAWS)
    assert row.candidates == ("lose", "win")
    assert row.prompts == ("l", "w")
    assert row.scores == (6.0, 2.0)


def test_score_label_by_hand():
    """Scores 2 and 6 normalized by [0, 8] differ by 0.5; over temperature 0.25 that is sigmoid(2)."""
    row = ScoreLabel(low=0.0, high=8.0, temperature=0.25)(ROW, DRAWS)
    assert row.prob == pytest.approx(1 / (1 + math.exp(-2)))


def test_equal_scores_are_a_tie():
    level = replace(ROW, extra={"score_chosen": 1, "score_rejected": 1})
    assert ScoreLabel()(level, DRAWS).prob == 0.5


def test_exchanging_pictures_and_scores_changes_nothing():
    other = PairRow(3, ("l", "w"), ("lose", "win"), extra={"score_chosen": 6.0, "score_rejected": 2.0})
    ours, theirs = ScoreLabel()(ROW, DRAWS), ScoreLabel()(other, DRAWS)
    assert (ours.candidates, ours.scores, ours.prob) == (theirs.candidates, theirs.scores, theirs.prob)


@pytest.mark.parametrize("keep_order", [False, True])
def test_scores_stay_with_their_pictures_whatever_exchanged_the_sides_before(keep_order):
    turned = ScoreLabel(keep_order=keep_order)(ROW.swapped(), DRAWS)
    assert dict(zip(turned.candidates, turned.scores, strict=True)) == {"win": 2.0, "lose": 6.0}
    assert turned.candidates == ("lose", "win")
    coins = [apply_maps(TIE, [BreakTies(), ScoreLabel()], Draws(0, (0,), (i,))) for i in range(20)]
    assert {coin.candidates for coin in coins} == {("lose", "win")}


@pytest.mark.parametrize("column", ["score_chosen", "score_rejected"])
def test_a_null_score_drops_the_row(column):
    unreadable = replace(ROW, extra={**ROW.extra, column: None})
    assert apply_maps(unreadable, [label := ScoreLabel()], DRAWS) is label
    assert apply_maps(replace(ROW, extra=unreadable.extra | {column: 0.0}), [label], DRAWS) != label


def test_missing_score_names_column_row_and_script():
    with pytest.raises(Refusal, match=r"ScoreLabel needs column 'ps', row 3 .* score_chosen.*scripts/score_pairs.py"):
        ScoreLabel(columns=("ps", "score_rejected"))(ROW, DRAWS)


@pytest.mark.parametrize(
    ("scores", "wins"), [((6.0, 2.0), 1 / (1 + math.exp(-0.5))), ((2.0, 6.0), 0.5), ((2.0, 2.0), 0.5)]
)
def test_kept_order_is_clamped_at_one_half(scores, wins):
    """Scores 6 and 2 over [0, 8]: sigmoid(0.5) as the source orders them, one half where the scorer says otherwise."""
    row = replace(ROW, extra={"score_chosen": scores[0], "score_rejected": scores[1]})
    kept = ScoreLabel(high=8.0, keep_order=True)(row, DRAWS)
    assert (kept.candidates, kept.scores) == (ROW.candidates, scores)
    assert kept.prob == pytest.approx(wins)


def test_where_source_and_scorer_agree_keeping_the_order_changes_nothing():
    agreed = replace(ROW, extra={"score_chosen": 6.0, "score_rejected": 2.0})
    assert ScoreLabel(high=8.0, keep_order=True)(agreed, DRAWS) == ScoreLabel(high=8.0)(agreed, DRAWS)


def test_a_tie_of_the_source_stays_one_if_the_order_is_kept():
    decided = replace(TIE, extra={"score_chosen": 6.0, "score_rejected": 2.0})
    assert ScoreLabel(keep_order=True)(decided, DRAWS).prob == 0.5
    assert ScoreLabel()(decided, DRAWS).prob > 0.5


def test_a_pair_that_scorer_and_source_order_differently_has_no_gradient():
    prob = ScoreLabel(keep_order=True)(ROW, DRAWS).prob
    policy = torch.tensor([[0.3], [-0.2]], requires_grad=True)
    label = PairLabels(torch.tensor([prob]), torch.zeros(2, 1), torch.ones(1))
    loss = Confidence(Sigmoid(beta=5.0))(PairLogps(policy, torch.zeros(2, 1), torch.ones(2, 1)), label)
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert policy.grad.tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("name", ["", "scores.json"])
def test_the_recorded_range_is_that_of_the_file_or_of_its_folder(scored, name):
    recorded = f"{scored(min=-2.0, max=6.0)}/{name}"
    assert ScoreLabel(recorded=recorded, scorer="taste")(ROW, DRAWS) == ScoreLabel(low=-2.0, high=6.0)(ROW, DRAWS)


def test_scores_outside_of_the_recorded_range_are_not_clamped(scored):
    """Of data that were not scored then: 2 and 6 over [3, 5] differ by 2."""
    assert ScoreLabel(recorded=scored(min=3.0, max=5.0))(ROW, DRAWS).prob == pytest.approx(1 / (1 + math.exp(-2)))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"min": None},
            r"does not say min, max and scorer \(it says max, model_id, scorer\); name a scores.json that",
        ),
        ({"min": 8.0}, "taste gave 8.0 to each picture .* choose another scorer"),
        ({"scorer": "hpsv2"}, "wants scores of taste, those of .* are of hpsv2; score the pairs by taste"),
    ],
)
def test_what_is_recorded_has_to_be_a_range_of_the_same_scorer(scored, said, message):
    with pytest.raises(Refusal, match=message):
        ScoreLabel(recorded=scored(**said), scorer="taste")


def test_nothing_recorded_names_the_script(tmp_path):
    with pytest.raises(Refusal, match=r"finds no .*no/scores.json; write it with scripts/score_pairs.py"):
        ScoreLabel(recorded=str(tmp_path / "no" / "scores.json"))
    with pytest.raises(Refusal, match=r"finds no .*scores.json; write it with scripts/score_pairs.py"):
        ScoreLabel(recorded=str(tmp_path))


@pytest.mark.parametrize("given", [{"low": 0.0}, {"high": 0.0}])
def test_a_range_is_recorded_or_given(scored, given):
    with pytest.raises(Refusal, match="set only one of them"):
        ScoreLabel(recorded=scored(), **given)


def test_a_scorer_is_told_by_what_is_recorded():
    with pytest.raises(Refusal, match="cannot tell whether taste scored; set recorded to its scores.json"):
        ScoreLabel(scorer="taste")


@pytest.mark.parametrize("given", [{"low": 1.0}, {"high": 0.0}, {"temperature": 0.0}])
def test_an_empty_range_or_temperature_is_refused(given):
    with pytest.raises(Refusal, match="low < high and temperature > 0"):
        ScoreLabel(**given)


def test_smooth_by_hand_and_neutral():
    assert Smooth(0.1)(ROW, DRAWS).prob == pytest.approx(0.9)
    assert Smooth(0.1)(replace(ROW, prob=0.8), DRAWS).prob == pytest.approx(0.74)
    assert Smooth(0.0)(ROW, DRAWS) == ROW


def test_a_share_of_pairs_is_mislabeled_always_the_same():
    rows = [Mislabel(0.2)(ROW, Draws(0, (0,), (i,))) for i in range(1000)]
    assert rows == [Mislabel(0.2)(ROW, Draws(0, (0,), (i,))) for i in range(1000)]
    assert 160 < sum(row == ROW.swapped() for row in rows) < 240
    assert all(row in (ROW, ROW.swapped()) for row in rows)


def test_more_mislabeled_pairs_contain_the_fewer():
    def wrong(share):
        return {i for i in range(200) if Mislabel(share)(ROW, Draws(0, (0,), (i,))).turned}

    assert wrong(0.0) < wrong(0.1) < wrong(0.4)


def test_ties_and_shares_beyond_one_half():
    assert all(Mislabel(0.5)(TIE, Draws(0, (0,), (i,))) is TIE for i in range(20))
    with pytest.raises(Refusal, match=r"share in \[0, 0.5\], got 0.6"):
        Mislabel(0.6)


def test_an_exponential_weight_by_hand():
    """exp((2 - 1) / 0.5) times the row's own weight."""
    heavy = ExpWeight(temperature=0.5, shift=1.0)(replace(ROW, weight=3.0), DRAWS)
    assert heavy.weight == pytest.approx(3 * math.exp(2))
    assert heavy.notes == ()
    cut = ExpWeight(temperature=0.5, shift=1.0, most=5.0)(ROW, DRAWS)
    assert cut.weight == pytest.approx(5)
    assert cut.notes == ("whose exponential weight was cut",)  # a run counts these and tells them
    assert ExpWeight(temperature=1e9)(ROW, DRAWS).weight == pytest.approx(1)
    assert ExpWeight("score_rejected", shift=6.0)(ROW, DRAWS).weight == 1


def test_an_exponential_weight_needs_a_score_and_a_temperature():
    with pytest.raises(Refusal, match="ExpWeight needs column 'utility'"):
        ExpWeight("utility")(ROW, DRAWS)
    with pytest.raises(Refusal, match="positive temperature"):
        ExpWeight(temperature=0.0)
