import torch
from tiny import denoiser, draws, image_batch

from diffpo.core.pair import PairLabels
from diffpo.diffusion.methods.sft import SFT
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.losses.likelihood import ChosenNLL


def test_is_the_chosen_nll_without_the_rejected_side():
    """With scale 2, -log p of the surrogate is the mean squared error."""
    policy, batch = denoiser(), image_batch()
    lean, pairwise = (
        SFT()(policy, None, batch, draws()),
        DenoisingPreference(ChosenNLL(), scale=2.0)(policy, None, batch, draws()),
    )
    torch.testing.assert_close(lean.loss, pairwise.loss)
    lean.loss.backward()
    alone = [p.grad.clone() for p in policy.unet.parameters()]
    policy.unet.zero_grad()
    pairwise.loss.backward()
    for a, p in zip(alone, policy.unet.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)


def test_needs_no_reference_and_ignores_the_loser():
    batch = image_batch()
    other = type(batch)(
        torch.stack([batch.latents[0], torch.full_like(batch.latents[1], 9.0)]), batch.cond, batch.label, batch.row
    )
    assert not SFT().requires.reference
    torch.testing.assert_close(
        SFT()(denoiser(), None, batch, draws()).loss,
        SFT()(denoiser(), None, other, draws()).loss,
        rtol=1e-4,
        atol=1e-5,
    )


def test_weights_scale_pairs():
    weights = PairLabels(torch.ones(3), torch.zeros(2, 3), torch.tensor([0.0, 0.0, 3.0]))
    step = SFT()(denoiser(), None, image_batch(label=weights), draws())
    torch.testing.assert_close(step.loss.detach(), step.metrics["mse/policy_chosen"][2])
