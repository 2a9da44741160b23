import math
import multiprocessing
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tiny import denoiser, draws, image_batch, moved, unet
from torch import distributed
from torch.nn.functional import logsigmoid

from diffpo.core.pair import PairLabels, PairLogps, PairLoss
from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.prediction import Epsilon, Velocity
from diffpo.diffusion.data.batches import ImageBatch
from diffpo.diffusion.objective.guard import Guard
from diffpo.diffusion.objective.noising import ForwardNoise
from diffpo.diffusion.objective.preference import DenoisingPreference, mean_over_processes
from diffpo.losses.combined import Confidence, LengthNormalised, Sum
from diffpo.losses.likelihood import ChosenNLL
from diffpo.losses.logistic import Robust, Sigmoid
from diffpo.losses.margin import IPO, Hinge
from diffpo.losses.reference_free import SimPO

LOG2 = torch.tensor(math.log(2))
SOFT = PairLabels(torch.tensor([1.0, 0.8, 0.6]), torch.zeros(2, 3), torch.ones(3))


def policy_and_reference(prediction=None, by=0.02):
    """A policy that has moved away from its reference."""
    reference = FrozenCopy(unet())
    return denoiser(moved(unet(), by), prediction), reference


def gradients(step, model) -> list[torch.Tensor]:
    step.loss.backward()
    return [p.grad.clone() for p in model.unet.parameters() if p.grad is not None]


@pytest.mark.parametrize("prediction", [Epsilon(), Velocity()])
@pytest.mark.parametrize("dual", [False, True])
@pytest.mark.parametrize("guard", [None, Guard()])
def test_loss_is_log_2_and_accuracy_one_half_at_the_start(prediction, dual, guard):
    policy = denoiser(prediction=prediction)
    step = DenoisingPreference(guard=guard)(
        policy, FrozenCopy(policy.unet), image_batch(dual=dual, label=SOFT), draws()
    )
    torch.testing.assert_close(step.loss, LOG2)
    assert step.metrics["rewards/accuracies"].tolist() == [0.5] * 3
    assert step.metrics["mse/chosen_minus_reference"].abs().max() == 0


def test_matches_the_official_script():
    """The arithmetic of SalesforceAIResearch/DiffusionDPO's train.py, written out on the same noisy latents."""
    policy, reference = policy_and_reference()
    batch = image_batch()
    noised = ForwardNoise()(policy, None, batch, draws())
    x, t, text = noised.x_t.flatten(0, 1), noised.t.repeat(2), batch.cond.states["prompt"].flatten(0, 1)
    target = noised.eps.flatten(0, 1)

    model_losses = (policy.unet(x, t, text).sample - target).pow(2).mean(dim=[1, 2, 3])
    with torch.no_grad():
        ref_losses = (reference.model(x, t, text).sample - target).pow(2).mean(dim=[1, 2, 3])
    model_w, model_l = model_losses.chunk(2)
    ref_w, ref_l = ref_losses.chunk(2)
    inside = -0.5 * 5000 * ((model_w - model_l) - (ref_w - ref_l))
    want = (-1 * logsigmoid(inside)).mean()

    step = DenoisingPreference()(policy, reference, batch, draws())
    torch.testing.assert_close(step.loss, want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(step.metrics["rewards/accuracies"], (inside > 0).float())
    torch.testing.assert_close(step.metrics["mse/reference_rejected"], ref_l)


def test_diffusers_convention_is_half_the_beta():
    """The SD script of diffusers has no one half: its beta_dpo 2500 is our 5000."""
    policy, reference = policy_and_reference()
    step = DenoisingPreference(Sigmoid(5000.0))(policy, reference, image_batch(), draws())
    m = step.metrics
    margin = (m["mse/policy_chosen"] - m["mse/policy_rejected"]) - (
        m["mse/reference_chosen"] - m["mse/reference_rejected"]
    )
    torch.testing.assert_close(step.loss, -logsigmoid(-2500 * margin).mean(), rtol=1e-4, atol=1e-4)


def test_gradient_weight_on_each_side_at_the_start():
    """dL/dm_w = beta/4 and dL/dm_l = -beta/4 for the mean over one pair."""
    errors = torch.tensor([[0.3], [0.5]], requires_grad=True)
    pair = PairLogps(-0.5 * errors, -0.5 * errors.detach(), torch.ones(2, 1))
    DenoisingPreference(Sigmoid(8.0)).loss(pair, PairLabels.hard(1)).sum().backward()
    torch.testing.assert_close(errors.grad, torch.tensor([[2.0], [-2.0]]))


def test_swapping_the_pair_adds_z():
    policy, reference = policy_and_reference()
    batch = image_batch()
    swapped = replace(batch, latents=batch.latents.flip(0))
    objective = DenoisingPreference(Sigmoid(200.0))
    there, back = (objective(policy, reference, b, draws()) for b in (batch, swapped))
    torch.testing.assert_close(back.metrics["rewards/margins"], -there.metrics["rewards/margins"])
    torch.testing.assert_close(back.loss - there.loss, there.metrics["rewards/margins"].mean(), rtol=1e-4, atol=1e-4)


def test_identical_images_give_no_gradient():
    policy, reference = policy_and_reference()
    same = replace(image_batch(), latents=image_batch().latents[:1].expand(2, -1, -1, -1, -1))
    step = DenoisingPreference()(policy, reference, same, draws())
    torch.testing.assert_close(step.loss, LOG2)
    assert max(g.abs().max().item() for g in gradients(step, policy)) < 1e-3  # beta 5000 on rounding


def test_a_vanishing_beta_gives_log_2_and_no_gradient():
    policy, reference = policy_and_reference()
    step = DenoisingPreference(Sigmoid(1e-30))(policy, reference, image_batch(), draws())
    torch.testing.assert_close(step.loss, LOG2)
    assert all(g.abs().max() < 1e-25 for g in gradients(step, policy))


def test_guard_changes_no_value_and_only_the_losers_gradient():
    plain, guarded = DenoisingPreference(Sigmoid(50.0)), DenoisingPreference(Sigmoid(50.0), guard=Guard(0.9))
    policy, reference = policy_and_reference()
    a, b = (objective(policy, reference, image_batch(), draws()) for objective in (plain, guarded))
    torch.testing.assert_close(a.loss, b.loss, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(a.metrics[name], b.metrics[name]) for name in ("rewards/margins", "mse/policy_rejected"))
    first = torch.cat([g.flatten() for g in gradients(a, policy)])
    policy.unet.zero_grad()
    second = torch.cat([g.flatten() for g in gradients(b, policy)])
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(
    "loss",
    [
        Sigmoid(0.1),
        Robust(0.1),
        Hinge(0.1),
        IPO(0.1),
        SimPO(2.0),
        Sum([Sigmoid(0.1), ChosenNLL()], [1.0, 0.1]),
        LengthNormalised(IPO(0.1)),
        Confidence(Sigmoid(0.1)),
    ],
)
def test_every_text_side_loss_runs_unchanged_on_images(loss):
    policy, reference = policy_and_reference()
    step = DenoisingPreference(loss, scale=5e4)(policy, reference, image_batch(label=SOFT), draws())
    assert step.loss.isfinite()
    assert any(g.any() for g in gradients(step, policy))


def test_scale_moves_a_text_beta_to_images():
    policy, reference = policy_and_reference()
    text, image = DenoisingPreference(Sigmoid(0.1), scale=5e4), DenoisingPreference(Sigmoid(5000.0))
    losses = [objective(policy, reference, image_batch(), draws()).loss for objective in (text, image)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-4)


def test_reference_free_loss_never_calls_a_reference():
    policy, _ = policy_and_reference()
    objective = DenoisingPreference(SimPO(), scale=100.0)
    assert not objective.requires.reference
    step = objective(policy, None, image_batch(), draws())
    assert step.loss.isfinite()
    assert "mse/reference_chosen" not in step.metrics


def test_a_loss_of_probabilities_is_refused():
    @dataclass(frozen=True)
    class Odds(PairLoss):
        needs_probability: ClassVar[bool] = True

        def __call__(self, pair, label):
            return pair.margin

    for loss in (Odds(), Sum([Sigmoid(), Odds()], [1.0, 1.0]), Confidence(Odds())):
        with pytest.raises(Refusal, match="needs true probabilities, the denoising surrogate is none; choose a loss"):
            DenoisingPreference(loss)


def test_no_gradient_reaches_the_reference():
    policy, reference = policy_and_reference()
    DenoisingPreference()(policy, reference, image_batch(), draws()).loss.backward()
    assert all(p.grad is None for p in reference.model.parameters())


def test_half_precision_networks_still_have_fp32_errors():
    """Recomputed in fp64 from the same bf16 predictions, z differs by less than 1e-3."""
    policy, reference = policy_and_reference(by=0.001)
    with torch.autocast("cpu", torch.bfloat16):
        step = DenoisingPreference()(policy, reference, image_batch(), draws())
        noised = ForwardNoise()(policy, None, image_batch(), draws())
        with torch.no_grad():
            ours, frozen = (
                replace(policy, unet=network).eps(noised.x_t, noised.t, image_batch().cond).double()
                for network in (policy.unet, reference.model)
            )
    m, r = ((eps - noised.eps.double()).square().flatten(2).mean(-1) for eps in (ours, frozen))
    z = -2500 * ((m[0] - m[1]) - (r[0] - r[1]))
    assert (step.metrics["rewards/margins"].double() - z).abs().max() < 1e-3
    assert step.metrics["rewards/margins"].dtype == torch.float32


def test_autocast_shared_by_both_networks_keeps_log_2():
    policy = denoiser()
    reference = FrozenCopy(policy.unet, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        step = DenoisingPreference()(policy, reference, image_batch(), draws())
    torch.testing.assert_close(step.loss, LOG2)


def test_batch_of_n_is_the_mean_of_n_batches_of_one():
    policy, reference = policy_and_reference()
    batch, objective = image_batch(), DenoisingPreference(Sigmoid(100.0), guard=Guard())
    whole = objective(policy, reference, batch, draws()).loss
    singles = []
    for i in range(3):
        one = ImageBatch(
            batch.latents[:, [i]], batch.cond.map(itemgetter((slice(None), [i]))), PairLabels.hard(1), (i,)
        )
        singles.append(objective(policy, reference, one, replace(draws(), epoch=(0,), row=(i,))).loss)
    torch.testing.assert_close(whole, torch.stack(singles).mean(), rtol=1e-4, atol=1e-5)


def test_curves_by_timestep_share_out_the_pairs():
    policy, reference = policy_and_reference()
    step = DenoisingPreference()(policy, reference, image_batch(40), draws(40))
    quarters = [step.metrics[f"mse/policy_chosen/t{low}-{low + 250}"] for low in (0, 250, 500, 750)]
    assert sum((~quarter.isnan()).sum().item() for quarter in quarters) == 40
    together = torch.stack(quarters).nan_to_num().sum(0)
    torch.testing.assert_close(together, step.metrics["mse/policy_chosen"])


def test_preference_moves_from_loser_to_winner_and_reversed_back():
    """A hundred steps on three pairs raise the margin; with the sides swapped they lower it."""
    margins = []
    for flip in (False, True):
        policy = denoiser(unet())
        reference, batch = FrozenCopy(policy.unet), image_batch()
        trained = replace(batch, latents=batch.latents.flip(0)) if flip else batch
        objective = DenoisingPreference(Sigmoid(20.0))
        optimizer = torch.optim.AdamW(policy.unet.parameters(), lr=1e-3)
        for epoch in range(60):
            objective(policy, reference, trained, draws(epoch=epoch)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        margins.append(objective(policy, reference, batch, draws(epoch=1000)).metrics["rewards/margins"].mean().item())
    assert margins[0] > 0.05
    assert margins[1] < -0.05


def share_a_mean(folder: Path, rank: int) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    (folder / str(rank)).write_text(str(mean_over_processes(torch.tensor([1.0, 4.0])[rank]).item()))
    distributed.destroy_process_group()


def test_a_mean_over_processes_is_the_same_on_each(tmp_path):
    forking = multiprocessing.get_context("fork")
    processes = [forking.Process(target=share_a_mean, args=(tmp_path, rank)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["2.5", "2.5"]
    assert mean_over_processes(torch.tensor(3.0)) == 3
