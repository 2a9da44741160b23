import math
from dataclasses import replace

import pytest
import torch
from tiny import denoiser, draws, image_batch, moved, unet

from diffpo.core.pair import PairLabels
from diffpo.core.references import FrozenCopy
from diffpo.diffusion.base.prediction import Velocity
from diffpo.diffusion.data.batches import Conditioning
from diffpo.diffusion.methods.dcpo import DCPO
from diffpo.diffusion.objective.inversion import PolicyInversion
from diffpo.diffusion.objective.noising import ForwardNoise
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.combined import Confidence
from diffpo.losses.logistic import Sigmoid
from diffpo.losses.margin import IPO

SIGMOID = Sigmoid(500.0)


def apart(prediction=None):
    """A policy that has left its reference."""
    policy = denoiser(unet(), prediction)
    reference = FrozenCopy(policy.unet)
    moved(policy.unet)
    return policy, reference


def exchanged(batch):
    return replace(batch, cond=batch.cond.exchanged())


def test_equal_captions_are_diffusion_dpo_bit_for_bit():
    policy, reference = apart()
    steps = [kind(SIGMOID)(policy, reference, image_batch(), draws()) for kind in (DCPO, DenoisingPreference)]
    torch.testing.assert_close(steps[0].loss, steps[1].loss, rtol=1e-4, atol=1e-5)


def test_each_side_is_conditioned_on_its_own_caption_in_policy_and_reference():
    policy, reference = apart()
    batch = image_batch(dual=True)
    noised = ForwardNoise()(policy, reference, batch, draws())
    with torch.no_grad():
        errors = []
        for network in (policy.unet, reference.model):
            eps = [
                network(noised.x_t[side], noised.t, encoder_hidden_states=batch.cond.states["prompt"][side]).sample
                for side in (0, 1)
            ]
            errors.append((torch.stack(eps) - noised.eps).square().mean(dim=(2, 3, 4)))
    (m_w, m_l), (r_w, r_l) = errors
    z = -0.5 * 500 * ((m_w - m_l) - (r_w - r_l))
    loss = DCPO(SIGMOID)(policy, reference, batch, draws()).loss
    assert loss.item() == pytest.approx(-torch.nn.functional.logsigmoid(z).mean().item(), rel=1e-4)


def test_exchanging_pictures_and_captions_together_negates_the_margin_and_either_alone_does_not():
    policy, reference = apart()
    batch = image_batch(dual=True)
    margin = DCPO(SIGMOID)(policy, reference, batch, draws()).metrics["rewards/margins"]
    pictures = replace(batch, latents=batch.latents.flip(0))
    both = DCPO(SIGMOID)(policy, reference, exchanged(pictures), draws()).metrics["rewards/margins"]
    torch.testing.assert_close(both, -margin, rtol=1e-4, atol=1e-3)
    for other in (pictures, exchanged(batch)):
        found = DCPO(SIGMOID)(policy, reference, other, draws()).metrics["rewards/margins"]
        assert (found + margin).abs().max() > 0.01


@pytest.mark.parametrize("prediction", [None, Velocity()])
def test_an_unmoved_policy_has_loss_log_2_whatever_the_captions(prediction):
    policy = denoiser(unet(), prediction)
    loss = DCPO(SIGMOID)(policy, FrozenCopy(policy.unet), image_batch(dual=True), draws()).loss
    assert loss.item() == pytest.approx(math.log(2), abs=1e-5)


def test_held_out_pairs_are_judged_with_captions_exchanged_too():
    policy, reference = apart()
    batch = image_batch(dual=True)
    with torch.no_grad():
        found = DCPO(SIGMOID)(policy, reference, batch, draws()).metrics
        other = DCPO(SIGMOID)(policy, reference, exchanged(batch), draws()).metrics
    assert torch.equal(found["captions_exchanged/margins"], other["rewards/margins"])
    assert torch.equal(found["captions_exchanged/accuracies"], other["rewards/accuracies"])
    assert "captions_exchanged/margins" not in DCPO(SIGMOID)(policy, reference, batch, draws()).metrics


def test_what_sdxl_is_told_of_a_picture_stays_when_captions_are_exchanged():
    told = Conditioning(
        {"prompt": torch.randn(2, 1, 3, 4), "pooled": torch.randn(2, 1, 5)}, {"time_ids": torch.randn(2, 1, 6)}
    )
    other = told.exchanged()
    assert torch.equal(other.states["prompt"][0], told.states["prompt"][1])
    assert torch.equal(other.states["pooled"][0], told.states["pooled"][1])
    assert torch.equal(other.picture["time_ids"], told.picture["time_ids"])


COMBINATIONS = [
    DCPO(Confidence(SIGMOID), noising=PolicyInversion(4, refinements=1)),
    DCPO(IPO(0.1), scale=5e4, noising=PolicyInversion(3, eta=0.1, visits=2)),
    DCPO(Confidence(Sigmoid(0.1), gamma=5.0), scale=5e4),
]


@pytest.mark.parametrize("objective", COMBINATIONS)
def test_it_composes_with_smoothing_inversion_and_other_losses(objective):
    """Equal captions are the same objective without dual captions; with two, the sides' texts matter."""
    policy, reference = apart()
    label = replace(PairLabels.hard(3), prob=torch.tensor([0.6, 0.7, 0.9]))
    plain = DenoisingPreference(objective.loss, objective.noising, scale=objective.scale)
    same, dual = image_batch(label=label), image_batch(label=label, dual=True)
    torch.testing.assert_close(
        *(x(policy, reference, same, draws()).loss for x in (objective, plain)), rtol=1e-4, atol=1e-5
    )
    losses = [objective(policy, reference, batch, draws()).loss for batch in (dual, exchanged(dual))]
    assert abs(losses[0] - losses[1]) > 1e-4
