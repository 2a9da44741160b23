from dataclasses import replace

import pytest
import torch
from tiny import draws, pair_logps

from diffpo.core.pair import PairLabels, PairLogps
from diffpo.core.refusal import Refusal
from diffpo.data.row_maps import ScoreLabel
from diffpo.data.rows import PairRow
from diffpo.diffusion.methods.capo import Calibrated, CaPO
from diffpo.losses.margin import IPO

PAIR = PairRow(0, ("a", "a"), (None, None), extra={"score_chosen": 3.0, "score_rejected": 1.0})


def labels(chosen: float, rejected: float, b: int = 1) -> PairLabels:
    return replace(PairLabels.hard(b), score=torch.tensor([[chosen] * b, [rejected] * b]))


def test_by_hand():
    """Win rates 0.9 and 0.4, margin 0.2 at beta 2: (0.5 - 0.4)^2."""
    pair = PairLogps(torch.tensor([[0.3], [0.1]]), torch.zeros(2, 1), torch.ones(2, 1))
    torch.testing.assert_close(CaPO(beta=2.0)(pair, labels(0.9, 0.4)), torch.tensor([0.01]))


def test_a_certain_win_is_ipo():
    """(1 - beta margin)^2 = beta^2 (margin - 1 / beta)^2, IPO at half the beta."""
    pair = pair_logps()
    torch.testing.assert_close(CaPO(beta=0.5)(pair, labels(1.0, 0.0, 5)), 0.25 * IPO(0.25)(pair, PairLabels.hard(5)))


def test_sides_that_score_alike_are_to_stay_level():
    pair = PairLogps(torch.ones(2, 1), torch.zeros(2, 1), torch.ones(2, 1))
    assert CaPO()(pair, labels(0.5, 0.5)).item() == 0


def test_scores_of_a_pair_become_the_win_rates_of_its_sides():
    """sigmoid(3 - 1) = 0.8808 against the only other sample."""
    scored = ScoreLabel()(PAIR, draws(1))
    calibrated = Calibrated()(scored, draws(1))
    assert calibrated.scores == pytest.approx((0.8808, 0.1192), abs=1e-4)
    assert replace(calibrated, scores=scored.scores) == scored


def test_a_human_verdict_is_a_certain_win():
    assert Calibrated()(PAIR, draws(1)).scores == (1.0, 0.0)


def test_a_batch_without_scores_is_refused():
    with pytest.raises(Refusal, match="all scores of this batch are 0; end data.rows with"):
        CaPO()(pair_logps(), PairLabels.hard(5))
