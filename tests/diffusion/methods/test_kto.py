from dataclasses import replace

import pytest
import torch
from tiny import denoiser, draws, image_batch, moved, unet

from diffpo.core.pair import PairLabels
from diffpo.core.references import FrozenCopy, Reference
from diffpo.diffusion.data.batches import ImageBatch
from diffpo.diffusion.methods.kto import KTO


def single(*liked: float) -> ImageBatch:
    b = len(liked)
    label = PairLabels(torch.tensor(liked), torch.zeros(1, b), torch.ones(b))
    return replace(image_batch(b).best(), label=label)


def gradient(objective: KTO, policy, reference: Reference, batch: ImageBatch) -> torch.Tensor:
    policy.unet.zero_grad()
    objective(policy, reference, batch, draws(len(batch.row))).loss.backward()
    return torch.cat([p.grad.flatten() for p in policy.unet.parameters()])


@pytest.mark.parametrize(("liked", "want"), [((1.0, 1.0), 0.8), ((0.0, 0.0), 0.3), ((1.0, 0.0), 0.55)])
def test_starts_at_half_the_weight_of_each_picture(liked, want):
    policy = denoiser()
    step = KTO(desirable=1.6, undesirable=0.6)(policy, FrozenCopy(policy.unet), single(*liked), draws(2))
    torch.testing.assert_close(step.loss, torch.tensor(want))


def test_a_pair_is_its_two_pictures():
    """Without KL: a network whose errors have risen everywhere."""
    policy, reference = denoiser(moved(unet(), 0.1)), FrozenCopy(unet())
    objective, batch = KTO(beta=0.5), image_batch()
    paired = objective(policy, reference, batch, draws())
    assert paired.metrics["kl"].tolist() == [0.0] * 3
    rejected = replace(batch, latents=batch.latents[1:], cond=batch.cond.map(lambda x: x[1:]))
    halves = [
        objective(policy, reference, replace(side, label=single(*[liked] * 3).label), draws()).loss
        for side, liked in ((batch.best(), 1.0), (rejected, 0.0))
    ]
    torch.testing.assert_close(paired.loss, torch.stack(halves).mean())


def test_matches_the_published_formula_by_hand():
    """g = r - m read off the curves; KL is its mean where that is positive."""
    policy, reference = denoiser(unet()), FrozenCopy(moved(unet(), 0.1))  # the reference is worse, so KL > 0
    step = KTO(beta=0.5, desirable=1.6, undesirable=0.4)(policy, reference, image_batch(), draws())
    curves = step.metrics
    g = torch.stack(
        [curves[f"mse/reference_{side}"] - curves[f"mse/policy_{side}"] for side in ("chosen", "rejected")]
    )
    kl = g.mean()
    assert kl > 0
    torch.testing.assert_close(curves["kl"], kl.expand(3))
    value = torch.sigmoid(0.5 * torch.tensor([[1.0], [-1.0]]) * (g - kl))
    want = (torch.tensor([[1.6], [0.4]]) * (1 - value)).mean()
    torch.testing.assert_close(step.loss, want)
    torch.testing.assert_close(curves["rewards/chosen"], 0.5 * g[0])


def test_likes_and_dislikes_pull_in_opposite_directions():
    policy = denoiser()
    reference = FrozenCopy(policy.unet)
    liked, disliked = (gradient(KTO(beta=1.0), policy, reference, single(y, y)) for y in (1.0, 0.0))
    torch.testing.assert_close(liked, -disliked)
    assert liked.abs().max() > 0


def test_kl_carries_no_gradient():
    """One like, of which KL is the whole log-ratio: with a gradient through KL there would be none at all."""
    policy, reference = denoiser(unet()), FrozenCopy(moved(unet(), 0.1))
    objective = KTO(beta=0.01)
    assert objective(policy, reference, single(1.0), draws(1)).metrics["kl"] > 0
    assert gradient(objective, policy, reference, single(1.0)).abs().max() > 0


def test_single_pictures_leave_out_what_is_about_pairs():
    policy = denoiser(moved(unet(), 0.02))
    metrics = KTO()(policy, FrozenCopy(unet()), single(1.0, 0.0), draws(2)).metrics
    assert not any("margins" in name or "accuracies" in name for name in metrics)
    assert metrics["mse/policy_chosen"].isnan().tolist() == [False, True]
    assert metrics["rewards/rejected"].isnan().tolist() == [True, False]
    assert metrics["mse/chosen_minus_reference"].isnan().tolist() == [False, True]


def test_weights_scale_rows():
    policy = denoiser()
    batch = single(1.0, 1.0)
    heavy = replace(batch, label=replace(batch.label, weight=torch.tensor([3.0, 0.0])))
    torch.testing.assert_close(KTO()(policy, FrozenCopy(policy.unet), heavy, draws(2)).loss, torch.tensor(0.75))
