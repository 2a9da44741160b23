import math
from dataclasses import replace

import pytest
import torch
from tiny import pair_logps
from torch.nn.functional import logsigmoid

from diffpo.core import PairLabels, PairLogps, PairLoss
from diffpo.losses.combined import Confidence, LengthNormalised, Sum
from diffpo.losses.likelihood import ChosenNLL
from diffpo.losses.logistic import Robust, Sigmoid
from diffpo.losses.margin import IPO, Hinge
from diffpo.losses.reference_free import SimPO

MARGIN = [Sigmoid(0.5), Robust(0.5, 0.1), Hinge(0.5), IPO(0.5)]


def at(margin: float | torch.Tensor) -> PairLogps:
    """Pairs whose margin is given, with lengths that must not matter."""
    margin = torch.as_tensor(margin, dtype=torch.float32).reshape(-1)
    zero = torch.zeros_like(margin)
    return PairLogps(torch.stack([margin, zero]), torch.stack([zero, zero]), torch.stack([zero + 3, zero + 7]))


def labels(prob: float, b: int = 1) -> PairLabels:
    return replace(PairLabels.hard(b), prob=torch.full((b,), prob))


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (Sigmoid(), math.log(2)),
        (Robust(), math.log(2)),
        (Hinge(), 1.0),
        (IPO(0.1), 25.0),
        (SimPO(2.0, 0.0), math.log(2)),
    ],
)
def test_value_where_policy_is_reference(loss, value):
    torch.testing.assert_close(loss(at(0.0), labels(1.0)), torch.tensor([value]))


@pytest.mark.parametrize(
    ("loss", "slope"), [(Sigmoid(1.0), -0.5), (Robust(1.0, 0.1), -0.625), (Hinge(1.0), -1.0), (IPO(1.0), -1.0)]
)
def test_slope_where_policy_is_reference(loss, slope):
    margin = torch.zeros(1, requires_grad=True)
    loss(at(margin), labels(1.0)).sum().backward()
    torch.testing.assert_close(margin.grad, torch.tensor([slope]))


@pytest.mark.parametrize("loss", MARGIN)
def test_soft_label_is_the_swapped_pair(loss):
    torch.testing.assert_close(loss(at(0.7), labels(0.0)), loss(at(-0.7), labels(1.0)))


@pytest.mark.parametrize("loss", MARGIN)
def test_a_constant_on_both_sides_changes_nothing(loss):
    pair, label = pair_logps(), PairLabels.hard(5)
    torch.testing.assert_close(loss(replace(pair, reference=pair.reference + 3.0), label), loss(pair, label))


def test_swapping_the_pair_adds_the_margin():
    z = torch.tensor([-2.0, 0.3, 1.7])
    loss, label = Sigmoid(1.0), PairLabels.hard(3)
    torch.testing.assert_close(loss(at(-z), label) - loss(at(z), label), z)


def test_conservative_dpo_is_lowest_at_the_logit_of_its_label():
    z = torch.linspace(-3, 6, 9001)
    values = Sigmoid(1.0)(at(z), labels(0.9, len(z)))
    assert abs(z[values.argmin()].item() - math.log(9)) < 2e-3


def test_robust_is_unbiased_under_flips():
    """(1 - e) L(z) + e L(-z) = -log sigmoid(z) for every z (arXiv:2403.00409)."""
    z, loss = torch.linspace(-4, 4, 9), Robust(1.0, 0.2)
    mixed = 0.8 * loss(at(z), labels(1.0, 9)) + 0.2 * loss(at(-z), labels(1.0, 9))
    torch.testing.assert_close(mixed, -logsigmoid(z))


def test_robust_without_flips_is_sigmoid():
    assert torch.equal(Robust(0.3, 0.0)(pair_logps(), labels(0.8, 5)), Sigmoid(0.3)(pair_logps(), labels(0.8, 5)))


def test_robust_refuses_coin_flips():
    with pytest.raises(ValueError, match=r"flip_rate in \[0, 0.5\), got 0.5"):
        Robust(flip_rate=0.5)


def test_hinge_is_flat_beyond_its_margin():
    assert Hinge(1.0)(at(1.5), labels(1.0)).item() == 0.0


def test_ipo_is_zero_at_its_target():
    assert IPO(0.25)(at(2.0), labels(1.0)).item() == 0.0


def test_simpo_by_hand():
    """Lengths 2 and 4, likelihoods -2 and -8: z = 2 (-1 + 2) - 0.5 = 1.5."""
    pair = PairLogps(torch.tensor([[-2.0], [-8.0]]), torch.zeros(2, 1), torch.tensor([[2.0], [4.0]]))
    torch.testing.assert_close(SimPO(2.0, 0.5)(pair, labels(1.0)), -logsigmoid(torch.tensor([1.5])))


def test_sum_by_hand_and_what_it_needs():
    pair = PairLogps(torch.full((2, 1), -3.0), torch.full((2, 1), -3.0), torch.full((2, 1), 5.0))
    both = Sum([Sigmoid(0.7), ChosenNLL()], [1.0, 0.5])
    torch.testing.assert_close(both(pair, labels(1.0)), torch.tensor([math.log(2) + 0.5 * 0.6]))
    assert both.needs_reference
    assert both.beta == 0.7
    assert not Sum([SimPO(), ChosenNLL()], [1.0, 1.0]).needs_reference


def test_sum_needs_one_coefficient_per_term():
    with pytest.raises(ValueError, match=r"one coef per term, got 1 terms and coefs \[1.0, 2.0\]"):
        Sum([Sigmoid()], [1.0, 2.0])


def test_length_normalised_divides_both_models():
    pair = pair_logps()
    divided = PairLogps(pair.policy / pair.length, pair.reference / pair.length, torch.ones(2, 5))
    assert torch.equal(LengthNormalised(IPO(0.3))(pair, labels(1.0, 5)), IPO(0.3)(divided, labels(1.0, 5)))


def test_length_normalised_at_length_one_is_its_inner_loss():
    pair = replace(pair_logps(), length=torch.ones(2, 5))
    assert torch.equal(LengthNormalised(Sigmoid())(pair, labels(1.0, 5)), Sigmoid()(pair, labels(1.0, 5)))


def test_confidence_is_smpo_equation():
    pair, prob = pair_logps(), torch.tensor([0.5, 0.55, 0.7, 0.9, 1.0])
    want = -logsigmoid(10 * (2 * prob - 1) * 0.7 * pair.margin)
    torch.testing.assert_close(Confidence(Sigmoid(0.7), 10.0)(pair, replace(PairLabels.hard(5), prob=prob)), want)


@pytest.mark.parametrize("inner", MARGIN)
def test_confidence_one_is_its_inner_loss(inner):
    assert torch.equal(Confidence(inner, 1.0)(pair_logps(), labels(1.0, 5)), inner(pair_logps(), labels(1.0, 5)))


def test_confidence_of_a_tie_gives_no_gradient():
    margin = torch.tensor([0.4], requires_grad=True)
    Confidence(Sigmoid())(at(margin), labels(0.5)).sum().backward()
    assert margin.grad.item() == 0.0


@pytest.mark.parametrize("wrap", [LengthNormalised, Confidence])
def test_wrappers_report_what_their_inner_loss_needs(wrap):
    assert wrap(Sigmoid(0.3)).beta == 0.3
    assert wrap(Sigmoid()).needs_reference
    assert not wrap(SimPO()).needs_reference


def test_every_loss_gives_one_finite_value_per_pair():
    losses: list[PairLoss] = [*MARGIN, SimPO(), ChosenNLL(), Sum([Sigmoid()], [1.0]), Confidence(IPO())]
    assert all(loss(pair_logps(), labels(0.8, 5)).isfinite().all() for loss in losses)
