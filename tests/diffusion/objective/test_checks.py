import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from tiny import denoiser, draws, image_batch, scheduler, unet

from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.data.rows import DropTies
from diffpo.diffusion.base.prediction import Epsilon, Velocity
from diffpo.diffusion.methods.kto import KTO
from diffpo.diffusion.methods.sft import SFT
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.objective.checks import require_prediction, require_users, silent_times
from diffpo.diffusion.objective.inversion import PolicyInversion
from diffpo.diffusion.objective.noising import Among, ForwardNoise, Uniform
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.diffusion.users.branch import UserBranch
from diffpo.diffusion.users.rows import ForUser
from diffpo.losses.logistic import Sigmoid


class Oracle(torch.nn.Module):
    """Predicts (nearly) exactly what its kind should, because it is told the clean latents."""

    def __init__(self, path, x_0, kind):
        super().__init__()
        self.path, self.x_0, self.kind = path, x_0.flatten(0, 1), kind

    def forward(self, x_t, t, encoder_hidden_states):
        a, s = self.path.a[t].view(-1, 1, 1, 1), self.path.s[t].view(-1, 1, 1, 1)
        eps = (x_t - a * self.x_0) / s
        out = eps if self.kind == "epsilon" else a * eps - s * self.x_0
        return UNet2DConditionOutput(sample=out + 0.1 * torch.sin(10 * x_t))


@pytest.mark.parametrize(("said", "really"), [(Epsilon(), "v_prediction"), (Velocity(), "epsilon")])
def test_a_mislabelled_network_is_found(said, really):
    batch = image_batch()
    path = denoiser(prediction=said)
    lying = denoiser(Oracle(path, batch.latents, really), said)
    told = f"the network fits '{really}' better .*set --base.scheduler.prediction_type {really}"
    with pytest.raises(Refusal, match=told):
        require_prediction(lying, batch, draws())


@pytest.mark.parametrize(("said", "really"), [(Epsilon(), "epsilon"), (Velocity(), "v_prediction")])
def test_an_honest_network_passes(said, really):
    batch = image_batch()
    require_prediction(denoiser(Oracle(denoiser(), batch.latents, really), said), batch, draws())


@pytest.mark.parametrize("said", [Epsilon(), Velocity()])
def test_an_untrained_network_passes_under_either_name(said):
    require_prediction(denoiser(unet(), said), image_batch(), draws())


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def zero_snr(request) -> Denoiser:
    return Denoiser.from_scheduler(unet(), scheduler(rescale_betas_zero_snr=True, prediction_type=request.param))


@pytest.mark.parametrize("objective", [DenoisingPreference, KTO, SFT])
@pytest.mark.parametrize(
    "times", [Uniform(), Uniform(900), Among([249, 499, 749, 999]), Among([999])], ids=lambda times: str(times)
)
def test_a_time_at_which_nothing_of_the_picture_is_left_is_told(zero_snr, objective, times):
    told = silent_times(objective(noising=ForwardNoise(times)), zero_snr)
    assert f"Of {len(times.met(1000))} times that pairs may be compared at, 1 (t = 999, say) leave nothing" in told
    assert told.endswith("Uniform with high 999.")
    assert "\n" not in told


def test_an_inversion_that_ends_there_is_told_and_one_that_does_not_is_not(zero_snr):
    assert "(t = 999, say)" in silent_times(DenoisingPreference(noising=PolicyInversion(10)), zero_snr)
    cosine = Denoiser.from_scheduler(unet(), scheduler(beta_schedule="squaredcos_cap_v2"))
    assert "(t = 999, say)" in silent_times(DenoisingPreference(), cosine)


@pytest.mark.parametrize("times", [Uniform(0, 999), Among([249, 499, 749])], ids=lambda times: str(times))
def test_times_with_signal_are_not_told(zero_snr, times):
    assert not silent_times(DenoisingPreference(noising=ForwardNoise(times)), zero_snr)
    assert not silent_times(DenoisingPreference(), denoiser())


def test_what_is_told_trains_nothing_and_the_other_times_do(zero_snr):
    """Why it is left out of SDXL-Turbo's recipe."""
    batch, policy = image_batch(), zero_snr.unet

    def gradient(t: int) -> float:
        objective = DenoisingPreference(Sigmoid(5000.0), ForwardNoise(Among([t])))
        policy.zero_grad()
        objective(zero_snr, FrozenCopy(policy), batch, draws()).loss.backward()
        return sum(parameter.grad.square().sum().item() for parameter in policy.parameters()) ** 0.5

    assert gradient(999) < 1e-4 * gradient(499)


def test_users_are_told_to_who_hears_them():
    branch, told = UserBranch(tokens=1, width=4), [DropTies(), ForUser("unused")]
    require_users(branch, told)
    for deaf in (None, LoRA()):
        require_users(deaf, [DropTies()])
        with pytest.raises(Refusal, match="ForUser tells who judged a pair, and this base hears no users; set "):
            require_users(deaf, told)
    with pytest.raises(Refusal, match="is told of nobody; add diffpo.diffusion.ForUser to data.rows"):
        require_users(branch, [DropTies()])
