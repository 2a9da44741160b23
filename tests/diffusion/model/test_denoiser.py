from dataclasses import replace

import pytest
import torch
from tiny import denoiser, draws, image_batch, moved, scheduler, trained, unet
from torch import Tensor

from diffpo.core.references import FrozenCopy, SwitchedOff
from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.prediction import Epsilon, Flow, Velocity
from diffpo.diffusion.data.batches import Conditioning, ImageBatch
from diffpo.diffusion.methods.dspo import DSPO
from diffpo.diffusion.methods.kto import KTO
from diffpo.diffusion.methods.sft import SFT
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.objective.guard import Guard
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.diffusion.objective.space import OutputSpace
from diffpo.lab.benchmark.cost.counted import Peak, without_numbers
from diffpo.losses.logistic import Sigmoid
from diffpo.losses.margin import IPO, Hinge

T = torch.tensor([0, 400, 999])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_path_is_the_schedulers(kind, zero_snr):
    diffusers = scheduler(prediction_type=kind, rescale_betas_zero_snr=zero_snr)
    ours, batch = Denoiser.from_scheduler(unet(), diffusers), image_batch()
    eps = draws().normal("noise", 4, 8, 8)
    x_t = ours.noised(batch.latents, eps.expand_as(batch.latents), T)
    want = torch.stack([diffusers.add_noise(side, eps, T) for side in batch.latents])
    torch.testing.assert_close(x_t, want)
    assert zero_snr == (ours.a[-1].item() < 1e-4)


def test_velocity_round_trip_with_the_schedulers_own_target():
    diffusers = scheduler(prediction_type="v_prediction")
    ours, batch = Denoiser.from_scheduler(unet(), diffusers), image_batch()
    eps = draws().normal("noise", 4, 8, 8).expand_as(batch.latents)
    x_t, a, s = ours.noised(batch.latents, eps, T), ours.signal(T), ours.noise(T)
    target = torch.stack([diffusers.get_velocity(x, e, T) for x, e in zip(batch.latents, eps, strict=True)])
    torch.testing.assert_close(ours.prediction.eps(target, x_t, a, s), eps)


def test_flow_round_trip():
    sigma = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1, 1)
    x_0, eps = image_batch().latents, draws().normal("noise", 4, 8, 8).expand(2, 3, 4, 8, 8)
    x_t = (1 - sigma) * x_0 + sigma * eps
    torch.testing.assert_close(Flow().eps(eps - x_0, x_t, 1 - sigma, sigma), eps)


@pytest.mark.parametrize("prediction", [Epsilon(), Velocity(), Flow()])
def test_the_picture_is_read_off_the_true_output(prediction):
    """Whatever is predicted: the noise, a eps - s x_0, or eps - x_0."""
    x_0, eps = image_batch().latents, draws().normal("noise", 4, 8, 8).expand(2, 3, 4, 8, 8)
    a = torch.tensor([0.9, 0.6, 0.2]).view(1, 3, 1, 1, 1)
    s = 1 - a if prediction == Flow() else (1 - a**2).sqrt()
    true = {Epsilon: eps, Velocity: a * eps - s * x_0, Flow: eps - x_0}[type(prediction)]
    torch.testing.assert_close(prediction.x_0(true, a * x_0 + s * eps, a, s), x_0, rtol=1e-4, atol=1e-5)


def test_squared_error_in_noise_space_is_alpha_bar_times_that_of_v():
    """|eps - eps_hat|^2 = alpha_bar |v - v_hat|^2 at fixed x_t: one beta serves both predictions."""
    ours = denoiser(prediction=Velocity())
    a, s = ours.signal(T), ours.noise(T)
    v, v_hat, x_t = torch.randn(3, 2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    error = Velocity().eps(v_hat, x_t, a, s) - Velocity().eps(v, x_t, a, s)
    torch.testing.assert_close(error.square(), a.square() * (v_hat - v).square(), rtol=1e-4, atol=1e-5)


def test_sides_are_evaluated_as_if_alone():
    ours, batch = denoiser(), image_batch(dual=True)
    both = ours.eps(batch.latents, T, batch.cond)
    alone = [
        ours.eps(batch.latents[[k]], T, Conditioning({"prompt": batch.cond.states["prompt"][[k]]})) for k in (0, 1)
    ]
    torch.testing.assert_close(both, torch.cat(alone))


def test_eps_is_fp32_under_autocast():
    ours, batch = denoiser(), image_batch()
    with torch.autocast("cpu", torch.bfloat16):
        assert ours.eps(batch.latents, T, batch.cond).dtype == torch.float32


def test_unknown_prediction_is_refused():
    with pytest.raises(Refusal, match="prediction_type 'sample'; known are epsilon, v_prediction"):
        Denoiser.from_scheduler(unet(), scheduler(prediction_type="sample"))


def test_epsilon_is_the_output_itself():
    out = torch.ones(1)
    assert Epsilon().eps(out, out * 2, out, out) is out


BETA = Sigmoid(50.0)
OBJECTIVES = {
    "sigmoid": DenoisingPreference(BETA),
    "hinge": DenoisingPreference(Hinge(50.0)),
    "ipo": DenoisingPreference(IPO(50.0)),
    "guarded": DenoisingPreference(BETA, guard=Guard(0.2)),
    "outputs": DenoisingPreference(BETA, space=OutputSpace()),
    "guarded outputs": DenoisingPreference(BETA, guard=Guard(0.2), space=OutputSpace()),
    "likes": KTO(beta=50.0),
    "scores": DSPO(beta=50.0),
}


def double_batch(dual: bool = True) -> ImageBatch:
    batch = image_batch(dual=dual)
    return replace(batch, latents=batch.latents.double(), cond=batch.cond.map(Tensor.double))


def double_denoiser(network: torch.nn.Module, one_side: bool) -> Denoiser:
    plain = denoiser(network.double(), Velocity())
    return replace(plain, a=plain.a.double(), s=plain.s.double(), one_side_at_a_time=one_side)


def gradient(objective, one_side: bool, adapter: LoRA | None = None) -> tuple[Tensor, Tensor]:
    """Loss and gradient of a policy that has moved away from its reference."""
    network = unet()
    if adapter:
        adapter.attach(network)
        trained(network)
        reference = SwitchedOff(network.double(), adapter.off)
    else:
        reference = FrozenCopy(network.double())
        moved(network)
    step = objective(double_denoiser(network, one_side), reference, double_batch(), draws())
    step.loss.backward()
    found = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return step.loss.detach(), torch.cat(found)


@pytest.mark.parametrize("adapter", [None, LoRA(rank=2)])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_side_at_a_time_gives_the_gradient_of_both_at_once(monkeypatch, name, adapter):
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    (loss, plain), (again, frugal) = (gradient(OBJECTIVES[name], one_side, adapter) for one_side in (False, True))
    assert plain.norm() > 0
    assert abs(again - loss) <= 1e-12 * abs(loss)
    assert (frugal - plain).norm() <= 1e-12 * plain.norm()


def test_dropout_of_adapters_is_the_same_when_a_side_runs_again(monkeypatch):
    """The sides one after the other, without a second run, draw the same masks."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    adapter, batch = LoRA(rank=2, dropout=0.5), double_batch()
    found = []
    for one_side in (True, False):
        network = unet().train()
        adapter.attach(network)
        trained(network)
        ours = double_denoiser(network, one_side)
        torch.manual_seed(0)
        if one_side:
            said = ours.eps(batch.latents, T, batch.cond)
        else:
            sides = ([k] for k in (0, 1))
            said = torch.cat([ours.eps(batch.latents[k], T, batch.cond.map(lambda x, k=k: x[k])) for k in sides])
        torch.manual_seed(1)
        said.square().mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert (found[0] - found[1]).norm() <= 1e-12 * found[1].norm()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_side_at_a_time_halves_the_activations(checkpointing):
    with without_numbers(), Peak() as peak:
        network = unet().train()
        LoRA(rank=2).attach(network)
        if checkpointing:
            network.enable_gradient_checkpointing()
        batch, t = image_batch(16), torch.full((16,), 500)
        both, one = denoiser(network), replace(denoiser(network), one_side_at_a_time=True)
        taken = []
        for ours in (both, one):
            kept = peak.since().kept
            ours.eps(batch.latents, t, batch.cond).square().mean().backward()
            network.zero_grad()
            taken.append(peak.since().peak - kept)
    assert 0.4 * taken[0] < taken[1] < 0.6 * taken[0]


def test_without_gradient_sides_go_together():
    ours, batch, seen = replace(denoiser(), one_side_at_a_time=True), image_batch(), []
    ours.unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    with torch.no_grad():
        ours.eps(batch.latents, T, batch.cond)
    assert seen == [6]


def test_one_side_alone_is_refused():
    ours = replace(denoiser(), one_side_at_a_time=True)
    with pytest.raises(Refusal, match="trains on one of each row; set base.one_side_at_a_time to false"):
        SFT()(ours, None, image_batch(), draws())
