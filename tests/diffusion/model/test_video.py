"""Video denoisers: what is defined on pictures holds for latents with one more axis."""

from dataclasses import replace

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from tiny import draws

from diffpo.core.pair import PairLabels
from diffpo.core.references import FrozenCopy
from diffpo.diffusion.base.family import Signature
from diffpo.diffusion.base.prediction import Velocity
from diffpo.diffusion.data.batches import Conditioning, ImageBatch
from diffpo.diffusion.methods.npo import JointGuidance
from diffpo.diffusion.methods.self_npo import SelfNPO
from diffpo.diffusion.methods.sft import SFT
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.guard import Guard
from diffpo.diffusion.objective.inversion import PolicyInversion
from diffpo.diffusion.objective.preference import DenoisingPreference

FRAMES, STATES = 2, (5, 16)


def transformer() -> CogVideoXTransformer3DModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=STATES[1],
            num_layers=1,
            sample_width=8,
            sample_height=8,
            sample_frames=5,
            max_text_seq_length=STATES[0],
        )


class ClipSignature(Signature):
    """CogVideoX-2B's (arXiv:2408.06072); latents are (frames, c, h, w)."""

    axes = 4

    def __call__(self, network, x_t, told, cond):
        return network(hidden_states=x_t, timestep=told, encoder_hidden_states=cond.states["prompt"]).sample


def video() -> Denoiser:
    """A path with zero terminal SNR, as CogVideoX has."""
    s = torch.linspace(0.03, 1, 1000)
    return Denoiser(transformer(), (1 - s**2).clamp(min=0).sqrt(), s, Velocity(), ClipSignature())


def clips(b: int = 2) -> ImageBatch:
    rng = torch.Generator().manual_seed(1)
    cond = Conditioning({"prompt": torch.randn(1, b, *STATES, generator=rng).expand(2, b, *STATES)})
    latents = torch.randn(2, b, FRAMES, 4, 8, 8, generator=rng)
    empty = Conditioning({"prompt": torch.randn(1, 1, *STATES, generator=rng)})
    return ImageBatch(latents, cond, PairLabels.hard(b), tuple(range(b)), empty)


@pytest.mark.parametrize(
    "objective",
    [
        DenoisingPreference(guard=Guard(0.5)),
        DenoisingPreference(noising=PolicyInversion(steps=2)),
        JointGuidance(),
        SelfNPO(),
        SFT(),
    ],
    ids=["DPO", "inversion", "joint guidance", "Self-NPO", "SFT"],
)
def test_two_steps_on_clips_lower_the_loss_of_these_clips(objective):
    policy, batch = video(), clips()
    reference = FrozenCopy(policy.unet)
    optimizer = torch.optim.AdamW(policy.unet.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        loss = objective(policy, reference, batch, draws(2)).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[2] < losses[0]


def test_an_error_is_the_mean_over_frames_too():
    """Of a network that says nothing: v = 0."""
    policy, batch = video(), clips()
    silent = replace(policy, unet=Silent())
    noised = DenoisingPreference().noising(silent, None, batch, draws(2))
    step = DenoisingPreference()(silent, FrozenCopy(silent.unet), batch, draws(2))
    a, s = policy.signal(noised.t), policy.noise(noised.t)
    want = (s * noised.x_t - noised.eps).square().mean((2, 3, 4, 5))
    torch.testing.assert_close(step.metrics["mse/policy_chosen"], want[0])
    assert a.shape == (1, 2, 1, 1, 1, 1)


class Silent(torch.nn.Module):
    def forward(self, hidden_states, timestep, encoder_hidden_states):
        return type("Said", (), {"sample": torch.zeros_like(hidden_states)})
