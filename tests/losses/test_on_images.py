"""Losses written for text, on the denoising surrogate of a tiny UNet."""

from dataclasses import replace

import pytest
import torch
from tiny import denoiser, draws, image_batch, unet
from tiny_losses import MARGIN, PROBABILITY, SURROGATE, TWO_SIDED, at, labels

from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.combined import AOT, Centered, Confidence, LengthNormalised
from diffpo.losses.divergence import AlphaDivergence, JensenShannon
from diffpo.losses.likelihood import ImplicitReward

SCALE = 5e4  # text betas of 0.1 become image betas of 5000
RELATIVE = [*MARGIN, *TWO_SIDED, ImplicitReward(), AOT(), Centered(), AlphaDivergence(), JensenShannon()]
NORMALIZED = [LengthNormalised(MARGIN[0]), Confidence(MARGIN[0])]


def name(loss) -> str:
    return type(loss).__name__


@pytest.mark.parametrize("loss", SURROGATE, ids=name)
def test_three_steps_stay_finite(loss):
    policy = denoiser()
    reference = FrozenCopy(policy.unet)
    optimizer = torch.optim.AdamW(policy.unet.parameters(), lr=1e-5)
    for epoch in range(3):
        batch = image_batch(2, label=labels(0.9, 2))
        step = DenoisingPreference(loss, scale=SCALE)(policy, reference, batch, draws(2, epoch=epoch))
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        assert step.loss.isfinite()
    assert all(weight.isfinite().all() for weight in policy.unet.parameters())


@pytest.mark.parametrize("loss", [*RELATIVE, *NORMALIZED], ids=name)
def test_an_untrained_policy_has_the_loss_of_equal_likelihoods(loss):
    policy = denoiser()
    batch = image_batch(2, label=labels(0.9, 2))
    step = DenoisingPreference(loss, scale=SCALE)(policy, FrozenCopy(policy.unet), batch, draws(2))
    zeros = replace(at(torch.zeros(2)), length=torch.ones(2, 2))
    torch.testing.assert_close(step.loss.detach(), loss(zeros, labels(0.9, 2)).mean())


@pytest.mark.parametrize("loss", PROBABILITY, ids=name)
def test_odds_of_a_surrogate_are_refused(loss):
    with pytest.raises(Refusal, match=f"{name(loss)} needs true probabilities, the denoising surrogate is none"):
        DenoisingPreference(loss, scale=SCALE)


def test_networks_learn_which_side_is_better_under_a_text_loss():
    """BCO, a loss of both sides with its text beta, separates two pairs of noise pictures in 20 steps."""
    policy, loss = denoiser(unet()), Centered()
    reference = FrozenCopy(policy.unet)
    optimizer = torch.optim.AdamW(policy.unet.parameters(), lr=1e-3)
    objective = DenoisingPreference(loss, scale=SCALE)
    for _ in range(20):
        step = objective(policy, reference, image_batch(2, label=labels(1.0, 2)), draws(2))
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
    assert step.metrics["rewards/accuracies"].tolist() == [1.0, 1.0]
