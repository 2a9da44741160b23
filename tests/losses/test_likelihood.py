import math
from dataclasses import replace

import pytest
import torch
from tiny import pair_logps
from tiny_losses import CHOSEN, labels, likely, pulls, sides

from diffpo.core.refusal import Refusal
from diffpo.losses.combined import LengthNormalised, Sum
from diffpo.losses.likelihood import (
    RPO,
    ChosenNLL,
    ChosenTotalNLL,
    Hellinger,
    ImplicitReward,
    KullbackLeibler,
    Pearson,
    RejectedLL,
    RejectedRatio,
    TotalVariation,
)
from diffpo.losses.logistic import Sigmoid

LOG2 = math.log(2)
PHIS = [TotalVariation(), Pearson(), Hellinger(), KullbackLeibler()]


def test_nll_by_hand():
    pair = sides([-6.0], [-1.0], lengths=(4.0, 1.0))
    assert ChosenNLL()(pair, labels(1.0)).item() == 1.5
    assert ChosenTotalNLL()(pair, labels(1.0)).item() == 6.0


@pytest.mark.parametrize("loss", [ChosenNLL(), ChosenTotalNLL()])
def test_imitation_needs_no_reference(loss):
    assert not loss.needs_reference


def test_rpo_by_hand():
    """beta 0.5, eta 0.1, log-ratios -4 and -4: log 2 + 0.1 x 0.5 x 4."""
    torch.testing.assert_close(RPO(0.5, 0.1)(sides([-4.0], [-4.0]), labels(1.0)), torch.tensor([LOG2 + 0.2]))


def test_rpo_pulls():
    """-beta (s(-z) + eta) and beta s(-z): the chosen side is pulled up even when z is saturated."""
    pair = pair_logps()
    away = 0.5 * torch.sigmoid(-0.5 * pair.margin)
    torch.testing.assert_close(pulls(RPO(0.5, 0.1), pair, labels(1.0, 5)), torch.stack([-away - 0.05, away]))


def test_rpo_without_imitation_is_dpo():
    assert torch.equal(RPO(0.3, 0.0)(pair_logps(), labels(0.8, 5)), Sigmoid(0.3)(pair_logps(), labels(0.8, 5)))


def test_both_forms_of_rpo_agree_where_their_weights_do():
    """eta beta times the sum is eta beta length times the mean."""
    pair = sides([-6.0], [-2.0], lengths=(4.0, 4.0))
    by_mean = Sum([Sigmoid(0.5), ChosenNLL()], [1.0, 0.1 * 0.5 * 4])
    torch.testing.assert_close(RPO(0.5, 0.1)(pair, labels(1.0)), by_mean(pair, labels(1.0)))


@pytest.mark.parametrize("phi", PHIS)
def test_implicit_reward_begins_as_sft(phi):
    loss, pair = ImplicitReward(0.1, phi), sides([0.0], [0.0])
    assert loss(pair, labels(1.0)).item() == 0.0
    torch.testing.assert_close(pulls(loss, pair, labels(1.0)).flatten(), torch.tensor([-1.0, 0.0]))


def test_total_variation_is_sft_for_any_reference():
    pair = pair_logps()
    want = pulls(ChosenTotalNLL(), pair, labels(1.0, 5))
    torch.testing.assert_close(pulls(ImplicitReward(0.3, TotalVariation()), pair, labels(1.0, 5)), want)


@pytest.mark.parametrize(
    ("phi", "u", "value", "slope"),
    [
        (TotalVariation(), 3.0, 3.0, 1.0),
        (Pearson(), 2.0, 1.0, 0.0),
        (Hellinger(), 1.0, 0.5, 0.25),
        (Hellinger(), -0.5, -1.0, 4.0),
        (Hellinger(), -1.5, -5.0, 4.0),
        (KullbackLeibler(), LOG2, 0.5, 0.5),
    ],
)
def test_phi_by_hand(phi, u, value, slope):
    at = torch.tensor([u], requires_grad=True)
    phi(at).sum().backward()
    torch.testing.assert_close(phi(at), torch.tensor([value]))
    torch.testing.assert_close(at.grad, torch.tensor([slope]))


@pytest.mark.parametrize("phi", PHIS)
def test_phi_is_concave_and_below_its_tangent_at_zero(phi):
    u = torch.linspace(-3, 3, 61)
    assert (phi(u) <= u + 1e-6).all()
    assert (phi(u).diff().diff() < 1e-5).all()


def test_implicit_reward_by_hand():
    """beta 0.5, log-ratio 2: u = 1, -phi / beta = -(1 - 1/4) / 0.5."""
    assert ImplicitReward(0.5, Pearson())(sides([2.0], [9.0]), labels(1.0)).item() == -1.5


def test_implicit_reward_of_the_mean_token():
    """Log-ratio -6 of 4 tokens under chi-squared: -(u - u^2 / 4) at u = -1.5."""
    pair = sides([-6.0], [0.0], lengths=(4.0, 4.0))
    assert LengthNormalised(ImplicitReward(1.0))(pair, labels(1.0)).item() == 1.5 + 2.25 / 4


def test_implicit_reward_refuses_to_divide_by_zero():
    with pytest.raises(Refusal, match="ImplicitReward needs a positive beta, got 0.0"):
        ImplicitReward(0.0)


@pytest.mark.parametrize("loss", CHOSEN)
def test_the_chosen_side_is_never_pulled_down_near_the_reference(loss):
    assert (pulls(loss, sides([-0.5, 0.0, 0.5], [0.0] * 3), labels(1.0, 3))[0] < 0).all()


def test_the_rejected_likelihood_is_what_is_pushed_down():
    pair = sides([-1.0], [-3.0])
    assert RejectedLL()(pair, labels(1.0)).item() == -3.0
    assert pulls(RejectedLL(), pair, labels(1.0)).tolist() == [[0.0], [1.0]]


def test_the_push_on_the_rejected_ratio_ends_at_its_floor():
    above, below = sides([-1.0], [-3.0]), sides([-1.0], [-5.0])
    assert [RejectedRatio(-4.0)(pair, labels(1.0)).item() for pair in (above, below)] == [-3.0, -4.0]
    assert pulls(RejectedRatio(-4.0), above, labels(1.0))[1].item() == 1.0
    assert pulls(RejectedRatio(-4.0), below, labels(1.0)).abs().sum().item() == 0.0


def test_offline_vpo_on_the_chosen_side_is_rpo():
    """DPO - alpha beta mean(log-ratio of calibration answers) (arXiv:2405.19320): RPO's gradient with eta alpha."""
    pair, label, alpha, beta = likely(), labels(1.0, b=5), 0.3, 0.5
    gradients = []
    for vpo in (True, False):
        policy = pair.policy.clone().requires_grad_()
        own = replace(pair, policy=policy)
        loss = Sigmoid(beta)(own, label) - alpha * beta * own.log_ratio[0] if vpo else RPO(beta, alpha)(own, label)
        loss.sum().backward()
        gradients.append(policy.grad)
    torch.testing.assert_close(*gradients)
