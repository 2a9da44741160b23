import math
from dataclasses import replace

import pytest
import torch
from tiny import pair_logps
from tiny_losses import MARGIN, at, labels, pulls, sides
from torch.nn.functional import logsigmoid

from diffpo.core.pair import PairLabels
from diffpo.core.refusal import Refusal
from diffpo.losses.logistic import EXO, ODPO, Difference, DiscoPOP, FlexDPO, LogDifference, LogRatio, Robust, Sigmoid

LOG2 = math.log(2)


def scored(chosen: float, rejected: float) -> PairLabels:
    return replace(PairLabels.hard(1), score=torch.tensor([[chosen], [rejected]]))


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (Sigmoid(), LOG2),
        (Robust(), LOG2),
        (FlexDPO(), LOG2),
        (EXO(smoothing=0.1), -LOG2 - 0.5 * math.log(0.1 * 0.9)),
        (DiscoPOP(), (LOG2 + 1) / 2),
    ],
)
def test_value_where_policy_is_reference(loss, value):
    torch.testing.assert_close(loss(at(0.0), labels(1.0)), torch.tensor([value]))


@pytest.mark.parametrize(
    ("loss", "slope"),
    [
        (Sigmoid(1.0), -0.5),
        (Robust(1.0, 0.1), -0.625),
        (EXO(1.0, 0.1), -0.25 * math.log(9)),
        (DiscoPOP(1.0, 0.05), (1 - LOG2) / 0.2 - 0.75),
    ],
)
def test_slope_where_policy_is_reference(loss, slope):
    torch.testing.assert_close(pulls(loss, at(0.0), labels(1.0))[0], torch.tensor([slope]))


@pytest.mark.parametrize("loss", MARGIN)
def test_a_certain_rejection_is_the_swapped_pair(loss):
    torch.testing.assert_close(loss(at(0.7), labels(0.0)), loss(at(-0.7), labels(1.0)))


@pytest.mark.parametrize("loss", MARGIN)
def test_a_constant_on_both_sides_changes_nothing(loss):
    pair = pair_logps()
    moved = replace(pair, reference=pair.reference + 3.0)
    torch.testing.assert_close(loss(moved, labels(1.0, 5)), loss(pair, labels(1.0, 5)))


def test_swapping_the_pair_adds_the_margin():
    z = torch.tensor([-2.0, 0.3, 1.7])
    loss, label = Sigmoid(1.0), PairLabels.hard(3)
    torch.testing.assert_close(loss(at(-z), label) - loss(at(z), label), z)


def test_conservative_dpo_by_hand():
    """z = log 3: -0.9 log(3/4) - 0.1 log(1/4)."""
    want = torch.tensor([-0.9 * math.log(0.75) - 0.1 * math.log(0.25)])
    torch.testing.assert_close(Sigmoid(0.5)(at(2 * math.log(3)), labels(0.9)), want)


def test_conservative_dpo_is_lowest_at_the_logit_of_its_label():
    z = torch.linspace(-3, 6, 9001)
    values = Sigmoid(1.0)(at(z), labels(0.9, len(z)))
    assert abs(z[values.argmin()].item() - math.log(9)) < 2e-3


def test_robust_is_unbiased_under_flips():
    """(1 - e) L(z) + e L(-z) = -log sigmoid(z) for every z (arXiv:2403.00409)."""
    z, loss = torch.linspace(-4, 4, 9), Robust(1.0, 0.2)
    mixed = 0.8 * loss(at(z), labels(1.0, 9)) + 0.2 * loss(at(-z), labels(1.0, 9))
    torch.testing.assert_close(mixed, -logsigmoid(z))


def test_robust_is_sigmoid_less_a_share_of_the_margin():
    """L(z) = -log sigmoid(z) - e / (1 - 2 e) z, which has no lower bound."""
    z = torch.linspace(-4, 40, 12)
    torch.testing.assert_close(Robust(1.0, 0.2)(at(z), labels(1.0, 12)), -logsigmoid(z) - z / 3)


def test_robust_without_flips_is_sigmoid():
    assert torch.equal(Robust(0.3, 0.0)(pair_logps(), labels(0.8, 5)), Sigmoid(0.3)(pair_logps(), labels(0.8, 5)))


def test_exo_by_hand():
    """z = log 3, so q = 3/4; smoothing 1/4: the target itself. At z = 0: log(1/2) - [log(3/4) + log(1/4)] / 2."""
    loss = EXO(1.0, 0.25)
    assert abs(loss(at(math.log(3)), labels(1.0)).item()) < 1e-6
    torch.testing.assert_close(loss(at(0.0), labels(1.0)), torch.tensor([math.log(2 / math.sqrt(3))]))


def test_exo_of_a_soft_label_is_zero_at_its_logit():
    z = math.log(0.7 / 0.3)
    assert abs(EXO(1.0, 1e-6)(at(z), labels(0.7)).item()) < 1e-5


def test_discopop_by_hand():
    """z = log 3, tau 1: s = 3/4, so (1/4) log(4/3) + (3/4) (1/3)."""
    want = torch.tensor([0.25 * math.log(4 / 3) + 0.25])
    torch.testing.assert_close(DiscoPOP(1.0, 1.0)(at(math.log(3)), labels(1.0)), want)


def test_discopop_is_logistic_far_below_and_vanishes_far_above():
    values = DiscoPOP(1.0)(at(torch.tensor([-1000.0, 1000.0])), labels(1.0, 2))
    assert values.tolist() == [1000.0, 0.0]
    assert pulls(DiscoPOP(1.0), at(-1000.0), labels(1.0))[0].item() == -1.0


def test_flex_dpo_by_hand():
    """h = (2, -1), betas 0.5 and 0.25: z = 1 + 0.25; swapped -0.5 - 0.5."""
    pair, z = sides([2.0], [-1.0]), torch.tensor([1.25])
    torch.testing.assert_close(FlexDPO(0.5, 0.25)(pair, labels(1.0)), -logsigmoid(z))
    torch.testing.assert_close(FlexDPO(0.5, 0.25)(pair, labels(0.0)), -logsigmoid(torch.tensor([-1.0])))


def test_flex_dpo_pulls_each_side_by_its_beta():
    up, down = pulls(FlexDPO(0.5, 0.2), pair_logps(), labels(1.0, 5))
    torch.testing.assert_close(down / up, torch.full((5,), -0.4))


def test_flex_dpo_of_equal_betas_is_dpo():
    pair = sides([1.0, -2.0], [0.5, 4.0])
    assert torch.equal(FlexDPO(0.5, 0.5)(pair, labels(0.8, 2)), Sigmoid(0.5)(pair, labels(0.8, 2)))


@pytest.mark.parametrize(("gap", "offset"), [(LogDifference(), 3.0), (LogRatio(), 4.0), (Difference(), math.exp(3.0))])
def test_odpo_at_the_start_is_softplus_of_its_offset(gap, offset):
    """Scores 4 and 1: L = log(1 + exp(alpha gap)), and the logarithmic gaps undo the exponential."""
    value = ODPO(alpha=1.0, gap=gap)(at(0.0), scored(4.0, 1.0))
    torch.testing.assert_close(value, torch.tensor([math.log(1 + offset)]))


def test_odpo_by_hand():
    """beta 0.5, margin 4, scores 3 and 1, alpha 2: z = 2 - 2 log 2."""
    want = -logsigmoid(torch.tensor([2 - 2 * LOG2]))
    torch.testing.assert_close(ODPO(0.5, 2.0)(at(4.0), scored(3.0, 1.0)), want)


@pytest.mark.parametrize(
    ("loss", "label"), [(ODPO(0.3, 0.0), scored(9.0, 1.0)), (ODPO(0.3, 2.0), scored(2.0, 1.0))], ids=["alpha", "gap"]
)
def test_odpo_without_offset_is_dpo(loss, label):
    assert torch.equal(loss(at(0.7), label), Sigmoid(0.3)(at(0.7), label))


def test_odpo_pulls_harder_the_larger_the_gap():
    slopes = [pulls(ODPO(), at(0.3), scored(gap, 0.0))[0].item() for gap in (0.5, 1.0, 5.0)]
    assert 0 > slopes[0] > slopes[1] > slopes[2]


@pytest.mark.parametrize("scores", [(1.0, 2.0), (1.0, 1.0)])
def test_odpo_refuses_scores_against_the_label(scores):
    with pytest.raises(Refusal, match="1 of 1 pairs have equal or reversed ones; score the pairs, and order or drop"):
        ODPO()(at(0.0), scored(*scores))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda: Robust(flip_rate=0.5), r"flip_rate in \[0, 0.5\), got 0.5"),
        (lambda: EXO(smoothing=0.0), r"smoothing in \(0, 0.5\), got 0.0"),
        (lambda: DiscoPOP(tau=2.0), r"tau in \(0, 1\], got 2.0"),
        (lambda: FlexDPO(beta_rejected=-0.1), "beta_rejected of 0 or more, got -0.1"),
        (lambda: ODPO(gap=LogRatio())(at(0.0), scored(1.0, -1.0)), "LogRatio needs positive scores, got -1"),
    ],
)
def test_impossible_settings_are_refused(broken, message):
    with pytest.raises(Refusal, match=message):
        broken()
