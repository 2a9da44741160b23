import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from tiny import scheduler

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.prediction import Flow, Velocity
from diffpo.diffusion.families.common import ddpm_path, flow_path


def test_a_shift_of_the_signal_to_noise_ratio_is_part_of_the_path():
    """CogVideoX-2B's: read as a DDPM scheduler, its signal at t = 100 would be 0.942."""
    theirs = CogVideoXDDIMScheduler(
        snr_shift_scale=3.0,
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
    )
    path = ddpm_path(theirs)
    assert path.prediction == Velocity()
    torch.testing.assert_close(path.a.square(), theirs.alphas_cumprod.float())
    assert path.a[100].item() == pytest.approx(0.853, abs=5e-4)


def test_a_last_signal_that_is_kept_off_zero_for_sampling_is_zero_in_training():
    sd = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    theirs = EulerDiscreteScheduler(**sd, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    assert theirs.alphas_cumprod[-1] > 0
    assert ddpm_path(theirs).a[-1] == 0


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_is_told_a_thousand_times_its_noise_whatever_the_schedulers_shift(shift):
    path = flow_path(FlowMatchEulerDiscreteScheduler(shift=shift))
    assert path.prediction == Flow()
    assert torch.equal(path.a, 1 - path.s)
    assert (path.s[0].item(), path.s[-1].item()) == (pytest.approx(1e-3), 1.0)
    torch.testing.assert_close(path.told, 1000 * path.s)


def test_a_flow_steps_from_noise_to_the_picture_by_what_a_network_should_say():
    """The scheduler of diffusers, fed with the target of this path, lands on x_0."""
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(5)
    x_0, eps = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x = eps
    for t in theirs.timesteps:
        x = theirs.step(eps - x_0, t, x).prev_sample
    torch.testing.assert_close(x, x_0, rtol=0, atol=1e-5)
    a, s = 0.3, 0.7
    torch.testing.assert_close(Flow().eps(eps - x_0, a * x_0 + s * eps, torch.tensor(a), torch.tensor(s)), eps)


def test_a_scheduler_of_betas_is_refused_as_a_flow():
    with pytest.raises(Refusal, match="DDIMScheduler, is for no rectified flow, .*; choose a base with a FlowMatch"):
        flow_path(scheduler())
