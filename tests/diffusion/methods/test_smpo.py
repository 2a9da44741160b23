import math
from dataclasses import replace

import pytest
import torch
from tiny import denoiser, draws, image_batch, moved, unet

from diffpo.core.pair import PairLabels
from diffpo.core.references import FrozenCopy, Reference
from diffpo.diffusion.methods.smpo import SmPO
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.logistic import Sigmoid


def labeled(*prob: float):
    b = len(prob)
    return image_batch(b, label=replace(PairLabels.hard(b), prob=torch.tensor(prob)))


def apart() -> tuple[Denoiser, Reference]:
    """A policy that has left its reference."""
    policy = denoiser(unet())
    reference = FrozenCopy(policy.unet)
    moved(policy.unet)
    return policy, reference


def test_equal_scores_give_log_2_and_no_gradient():
    policy, reference = apart()
    loss = SmPO()(policy, reference, labeled(0.5, 0.5), draws(2)).loss
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert all(not p.grad.any() for p in policy.unet.parameters())


def test_probability_055_is_plain_dpo_on_the_same_latents():
    policy, reference = apart()
    smpo = SmPO()
    dpo = DenoisingPreference(Sigmoid(2000.0), noising=smpo.noising)
    batch, hard = labeled(0.55, 0.55), image_batch(2)
    one, other = smpo(policy, reference, batch, draws(2)).loss, dpo(policy, reference, hard, draws(2)).loss
    assert one.item() == pytest.approx(other.item(), rel=1e-5)


def test_each_pair_has_its_own_weight():
    """Beside a pair that weighs nothing, the other's loss is what it is alone."""
    policy, reference = apart()
    both = SmPO()(policy, reference, labeled(0.5, 0.7), draws(2)).loss
    alone = SmPO()(policy, reference, labeled(0.55, 0.7), draws(2)).loss
    first = DenoisingPreference(Sigmoid(2000.0), noising=SmPO().noising)(policy, reference, image_batch(2), draws(2))
    z = 2000.0 * first.metrics["rewards/margins"] / 2000.0
    expected = [
        -torch.nn.functional.logsigmoid(gamma * z) for gamma in (torch.tensor([0.0, 4.0]), torch.tensor([1.0, 4.0]))
    ]
    assert both.item() == pytest.approx(expected[0].mean().item(), rel=1e-4)
    assert alone.item() == pytest.approx(expected[1].mean().item(), rel=1e-4)


@pytest.mark.parametrize("prob", [0.5, 0.6, 0.73])
def test_an_unmoved_policy_has_loss_log_2_whatever_the_confidence(prob):
    policy = denoiser()
    loss = SmPO()(policy, FrozenCopy(policy.unet), labeled(prob), draws(1)).loss
    assert loss.item() == pytest.approx(math.log(2), abs=1e-4)
