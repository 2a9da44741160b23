from dataclasses import replace

import torch
from tiny import alike, denoiser, draws, image_batch, moved, unet

from diffpo.core.pair import PairLabels
from diffpo.core.references import FrozenCopy
from diffpo.diffusion.methods.dspo import DSPO
from diffpo.diffusion.methods.sft import SFT
from diffpo.diffusion.objective.noising import ForwardNoise
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.logistic import Sigmoid


def policy_and_reference(by: float = 0.02):
    return denoiser(moved(unet(), by)), FrozenCopy(unet())


def test_starts_as_sft():
    policy = denoiser()
    ours = DSPO(beta=0.05)(policy, FrozenCopy(policy.unet), image_batch(), draws())
    assert alike(ours.loss, SFT()(policy, None, image_batch(), draws()).loss)
    assert ours.metrics["rewards/accuracies"].tolist() == [0.5] * 3


def test_at_beta_zero_is_sft_and_its_gradient_wherever_the_policy_is():
    policy, reference = policy_and_reference()
    gradients = []
    for objective, frozen in ((DSPO(beta=0.0), reference), (SFT(), None)):
        objective(policy, frozen, image_batch(), draws()).loss.backward()
        gradients.append([p.grad.clone() for p in policy.unet.parameters()])
        policy.unet.zero_grad()
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain)


def test_matches_the_published_script():
    """The arithmetic of the SD1.5 branch of huaishengzhu/DSPO's train.py on the same noisy latents."""
    policy, reference = policy_and_reference()
    batch, beta = image_batch(), 3.0
    noised = ForwardNoise()(policy, None, batch, draws())
    ours, frozen = (
        replace(policy, unet=network).eps(noised.x_t, noised.t, batch.cond)
        for network in (policy.unet, reference.model)
    )
    m, r = ((eps - noised.eps).square().mean(dim=(2, 3, 4)) for eps in (ours, frozen))
    inside = -0.5 * beta * ((m[0] - m[1]) - (r[0] - r[1]))
    pull = beta * (1 - inside.sigmoid())[:, None, None, None] * (ours - frozen)[0]
    want = ((ours - noised.eps)[0] - pull).square().mean(dim=(1, 2, 3)).mean()
    torch.testing.assert_close(DSPO(beta)(policy, reference, batch, draws()).loss, want)


def test_logs_what_diffusion_dpo_logs():
    policy, reference = policy_and_reference()
    ours = DSPO(beta=2.0)(policy, reference, image_batch(), draws()).metrics
    theirs = DenoisingPreference(Sigmoid(2.0))(policy, reference, image_batch(), draws()).metrics
    assert ours.keys() == theirs.keys()
    for name, curve in theirs.items():
        torch.testing.assert_close(ours[name], curve, equal_nan=True)


def test_a_label_of_zero_is_the_swapped_pair():
    policy, reference = policy_and_reference()
    batch = image_batch()
    wrong = PairLabels(torch.zeros(3), torch.zeros(2, 3), torch.ones(3))
    swapped = replace(batch, latents=batch.latents.flip(0))
    mislabeled = replace(batch, label=wrong)
    losses = [DSPO(beta=2.0)(policy, reference, b, draws()).loss for b in (swapped, mislabeled)]
    torch.testing.assert_close(*losses)
