import math
from dataclasses import replace

import pytest
import torch
from tiny import pair_logps
from tiny_losses import MARGIN, PROBABILITY, SURROGATE, TWO_SIDED, at, labels, likely, pulls, sides
from torch.nn.functional import logsigmoid

from diffpo.core.pair import PairLabels, PairLogps
from diffpo.core.refusal import Refusal
from diffpo.losses.combined import AOT, Centered, Confidence, LengthNormalised, Sum
from diffpo.losses.divergence import AlphaDivergence, JensenShannon
from diffpo.losses.likelihood import ChosenNLL
from diffpo.losses.logistic import Sigmoid
from diffpo.losses.margin import IPO
from diffpo.losses.reference_free import ORPO, SimPO
from diffpo.losses.two_sided import BCO

WRAPPERS = [LengthNormalised, Confidence, Centered, AOT, AlphaDivergence, JensenShannon]


def test_sum_by_hand_and_what_it_needs():
    pair = PairLogps(torch.full((2, 1), -3.0), torch.full((2, 1), -3.0), torch.full((2, 1), 5.0))
    both = Sum([Sigmoid(0.7), ChosenNLL()], [1.0, 0.5])
    torch.testing.assert_close(both(pair, labels(1.0)), torch.tensor([math.log(2) + 0.5 * 0.6]))
    assert both.needs_reference
    assert both.beta == 0.7
    assert not Sum([SimPO(), ChosenNLL()], [1.0, 1.0]).needs_reference
    assert Sum([SimPO(), ORPO()], [1.0, 1.0]).needs_probability


def test_sum_needs_one_coefficient_per_term():
    with pytest.raises(Refusal, match=r"one coef per term, got 1 terms and coefs \[1.0, 2.0\]"):
        Sum([Sigmoid()], [1.0, 2.0])


def test_length_normalised_divides_both_models():
    pair = pair_logps()
    divided = PairLogps(pair.policy / pair.length, pair.reference / pair.length, torch.ones(2, 5))
    assert torch.equal(LengthNormalised(IPO(0.3))(pair, labels(1.0, 5)), IPO(0.3)(divided, labels(1.0, 5)))


def test_length_normalised_dpo_by_hand():
    """Log-ratios 6 of 3 tokens and 2 of 4, beta 0.2: z = 0.2 (2 - 0.5)."""
    pair = sides([6.0], [2.0])
    pair = replace(pair, length=torch.tensor([[3.0], [4.0]]))
    torch.testing.assert_close(LengthNormalised(Sigmoid(0.2))(pair, labels(1.0)), -logsigmoid(torch.tensor([0.3])))


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
    assert not pulls(Confidence(Sigmoid()), at(0.4), labels(0.5)).any()


def test_centered_bco_by_hand():
    """Log-ratios log 9 and 0 have mean log 3: -log s(log 3) - log s(log 3) = -2 log(3/4)."""
    want = torch.tensor([-2 * math.log(0.75)])
    torch.testing.assert_close(Centered(BCO(1.0))(sides([math.log(9)], [0.0]), labels(1.0)), want)


@pytest.mark.parametrize("inner", TWO_SIDED)
def test_centering_undoes_a_constant_on_all_sides(inner):
    pair = pair_logps()
    moved = replace(pair, policy=pair.policy + 4.0)
    torch.testing.assert_close(Centered(inner)(moved, labels(1.0, 5)), Centered(inner)(pair, labels(1.0, 5)))


@pytest.mark.parametrize("inner", MARGIN)
def test_centering_leaves_losses_of_the_margin_alone(inner):
    pair = pair_logps()
    torch.testing.assert_close(Centered(inner)(pair, labels(0.8, 5)), inner(pair, labels(0.8, 5)))


def test_no_gradient_goes_through_the_center():
    """Rewards log 3 apart from their mean: slopes -(1 - 3/4) and 1 - 3/4, not smaller ones."""
    slopes = pulls(Centered(BCO(1.0)), sides([math.log(9)], [0.0]), labels(1.0))
    torch.testing.assert_close(slopes.flatten(), torch.tensor([-0.25, 0.25]))


def test_aot_by_hand():
    """Policy margins 3, 1, 2 against sorted reference margins -1, 0, 5: 3 - 5, 1 + 1, 2 - 0."""
    zero = torch.zeros(3)
    policy, reference = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0.0, 5.0, -1.0])
    pair = PairLogps(torch.stack([policy, zero]), torch.stack([reference, zero]), torch.ones(2, 3))
    want = -logsigmoid(torch.tensor([-2.0, 2.0, 2.0]))
    torch.testing.assert_close(AOT(Sigmoid(1.0))(pair, labels(1.0, 3)), want)


def test_aot_of_one_pair_is_its_inner_loss():
    pair = pair_logps(1)
    torch.testing.assert_close(AOT(Sigmoid(0.3))(pair, labels(0.8)), Sigmoid(0.3)(pair, labels(0.8)))


def test_aot_does_not_care_which_pair_has_which_reference_margin():
    pair = pair_logps()
    shuffled = replace(pair, reference=pair.reference[:, [3, 1, 4, 0, 2]])
    torch.testing.assert_close(AOT()(shuffled, labels(1.0, 5)), AOT()(pair, labels(1.0, 5)))


def test_aot_gives_each_pair_its_own_loss():
    """Reordered pairs get reordered losses, so weights and labels stay with their pairs."""
    pair, order = pair_logps(), [3, 1, 4, 0, 2]
    reordered = PairLogps(pair.policy[:, order], pair.reference[:, order], pair.length[:, order])
    torch.testing.assert_close(AOT()(reordered, labels(1.0, 5)), AOT()(pair, labels(1.0, 5))[order])


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_wrappers_report_what_their_inner_loss_needs(wrap):
    assert wrap(Sigmoid(0.3)).beta == 0.3
    assert wrap(Sigmoid()).needs_reference
    assert not wrap(SimPO()).needs_reference
    assert wrap(ORPO()).needs_probability


@pytest.mark.parametrize("loss", [*SURROGATE, *PROBABILITY], ids=lambda loss: type(loss).__name__)
def test_every_loss_gives_one_finite_value_and_gradient_per_pair(loss):
    assert loss(likely(), labels(0.8, 5)).isfinite().all()
    assert pulls(loss, likely(), labels(0.8, 5)).isfinite().all()
