import math

import pytest
import torch

from diffpo.core.pair import PairLabels, PairLogps
from diffpo.core.refusal import Refusal
from diffpo.diffusion.methods.dmpo import DMPO
from diffpo.losses.logistic import Sigmoid


def margins(*values: float) -> PairLogps:
    policy = torch.stack([torch.tensor(values), torch.zeros(len(values))]).requires_grad_()
    return PairLogps(policy, torch.zeros_like(policy), torch.ones_like(policy))


def test_by_hand_at_margin_zero():
    """KL of a fair coin from one of 0.9: 0.5 ln(0.5 / 0.9) + 0.5 ln(0.5 / 0.1)."""
    loss = DMPO(alpha=0.1)(margins(0.0), PairLabels.hard(1))
    torch.testing.assert_close(loss, torch.tensor([0.5 * math.log(25 / 9)]))


def test_no_loss_and_no_gradient_where_the_model_is_as_sure_as_the_label():
    pair = margins(math.log(0.9 / 0.1) / 2)
    loss = DMPO(beta=2.0, alpha=0.1)(pair, PairLabels.hard(1))
    (gradient,) = torch.autograd.grad(loss.sum(), pair.policy)
    assert loss.abs().max() < 1e-6
    assert gradient.abs().max() < 1e-6


def test_pairs_lost_by_far_are_given_up_unlike_in_dpo():
    pair = margins(-40.0)
    for loss, is_given_up in ((DMPO(beta=1.0), True), (Sigmoid(1.0), False)):
        (gradient,) = torch.autograd.grad(loss(pair, PairLabels.hard(1)).sum(), pair.policy)
        assert (gradient.abs().max() < 1e-6) == is_given_up
    torch.testing.assert_close(DMPO(beta=1.0)(pair, PairLabels.hard(1)), torch.tensor([-math.log(0.01)]))


def test_a_soft_label_mixes_the_pair_and_the_swapped_one():
    soft = PairLabels(torch.tensor([0.75]), torch.zeros(2, 1), torch.ones(1))
    loss, hard = DMPO(beta=1.0, alpha=0.2), PairLabels.hard(1)
    mixed = 0.75 * loss(margins(0.7), hard) + 0.25 * loss(margins(-0.7), hard)
    torch.testing.assert_close(loss(margins(0.7), soft), mixed)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_label_without_doubt_is_refused(alpha):
    with pytest.raises(Refusal, match=r"alpha in \(0, 1\)"):
        DMPO(alpha=alpha)
