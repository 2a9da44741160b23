import math
from dataclasses import replace

import pytest
import torch
from tiny import denoiser, draws, image_batch, moved, unet

from diffpo.core.references import FrozenCopy
from diffpo.diffusion.methods.inpo import InPO
from diffpo.diffusion.objective.inversion import PolicyInversion
from diffpo.diffusion.objective.noising import ForwardNoise
from diffpo.diffusion.objective.preference import DenoisingPreference, Residual
from diffpo.losses.logistic import Sigmoid


def apart(seed: int = 0):
    """A policy that has left its reference."""
    policy = denoiser(unet(seed))
    reference = FrozenCopy(policy.unet)
    moved(policy.unet)
    return policy, reference


def test_the_loss_is_the_published_one_on_the_implied_noise():
    policy, reference = apart()
    objective, batch = InPO(), image_batch()
    noised = objective.noising(policy, reference, batch, draws())
    tau = (noised.x_t - policy.signal(noised.t) * batch.latents) / policy.noise(noised.t)
    with torch.no_grad():
        m, r = (
            (replace(policy, unet=network).eps(noised.x_t, noised.t, batch.cond) - tau).square().mean(dim=(2, 3, 4))
            for network in (policy.unet, reference.model)
        )
    z = -0.5 * 2000 * ((m[0] - m[1]) - (r[0] - r[1]))
    loss = objective(policy, reference, batch, draws()).loss
    assert loss.item() == pytest.approx(-torch.nn.functional.logsigmoid(z).mean().item(), rel=1e-4)


def test_an_unmoved_policy_has_loss_log_2():
    policy = denoiser()
    loss = InPO()(policy, FrozenCopy(policy.unet), image_batch(), draws()).loss
    assert loss.item() == pytest.approx(math.log(2), abs=1e-4)


def test_exchanged_sides_negate_the_margin():
    objective = InPO(noising=PolicyInversion())
    policy, reference = apart()
    batch = image_batch()
    swapped = replace(batch, latents=batch.latents.flip(0))
    one, other = (objective(policy, reference, x, draws()).metrics["rewards/margins"] for x in (batch, swapped))
    torch.testing.assert_close(one, -other, rtol=1e-4, atol=1e-3)


def test_equal_sides_have_no_margin_without_noise_on_the_way():
    policy, reference = apart()
    batch = image_batch()
    batch = replace(batch, latents=batch.latents[:1].expand_as(batch.latents))
    margin = InPO(noising=PolicyInversion())(policy, reference, batch, draws()).metrics["rewards/margins"]
    assert margin.abs().max() < 1e-3


def test_with_forward_noise_it_is_diffusion_dpo_bit_for_bit():
    policy, reference = apart()
    inpo, dpo = InPO(noising=ForwardNoise()), DenoisingPreference(Sigmoid(2000.0))
    torch.testing.assert_close(
        *(x(policy, reference, image_batch(), draws()).loss for x in (inpo, dpo)), rtol=1e-4, atol=1e-5
    )


def test_several_visits_are_the_mean_over_their_times():
    policy, reference = apart()
    objective = InPO(noising=PolicyInversion(visits=3))
    noised = objective.noising(policy, reference, image_batch(), draws())
    step = objective(policy, reference, image_batch(), draws())
    with torch.no_grad():
        error = Residual(policy, noised).squared(policy.unet)
    assert step.metrics["mse/policy_chosen"].shape == (9,)
    torch.testing.assert_close(step.metrics["mse/policy_chosen"], error[0], rtol=1e-4, atol=1e-6)
