import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from tiny import denoiser, draws, image_batch, unet

from diffpo.adapters import LoRA
from diffpo.diffusion.checks import require_prediction, require_users
from diffpo.diffusion.denoiser import Epsilon, Velocity
from diffpo.diffusion.user_branch import UserBranch
from diffpo.refusal import Refusal
from diffpo.rows import DropTies
from diffpo.user_rows import ForUser


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


def test_users_are_told_to_who_hears_them():
    branch, told = UserBranch(tokens=1, width=4), [DropTies(), ForUser("unused")]
    require_users(branch, told)
    for deaf in (None, LoRA()):
        require_users(deaf, [DropTies()])
        with pytest.raises(Refusal, match="ForUser tells who judged a pair, and this base hears no users; set "):
            require_users(deaf, told)
    with pytest.raises(Refusal, match="is told of nobody; add diffpo.user_rows.ForUser to data.rows"):
        require_users(branch, [DropTies()])
