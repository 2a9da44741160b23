import pytest
import torch
from tiny import denoiser, draws, image_batch, scheduler, unet

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.prediction import Epsilon, Flow, Velocity
from diffpo.diffusion.data.batches import Conditioning
from diffpo.diffusion.model.denoiser import Denoiser

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
