"""What several families share: paths, the UNets of Stable Diffusion, latents of a VAE with a shift."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isqrt
from typing import Any, ClassVar

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffpo.core.refusal import Refusal, require_at_least
from diffpo.diffusion.base.attention import attend_unet
from diffpo.diffusion.base.family import Family, Path, TokenShift
from diffpo.diffusion.base.latents import find_posterior, unscale_latents
from diffpo.diffusion.base.prediction import Epsilon, Flow, Velocity
from diffpo.diffusion.base.schedules import require_ddpm, require_flow
from diffpo.diffusion.base.tokenizers import load_tokenizer
from diffpo.diffusion.base.unets import require_unet, require_unet_width
from diffpo.diffusion.data.batches import Conditioning

# Layers of attention that get a LoRA, where a text stream has its own: those of diffusers' own scripts.
JOINT = tuple(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0"))
JOINT += tuple(f"attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"))
SAME = 1e-6  # of alphas: some schedulers keep the last one a little above zero


def ddpm_path(scheduler: Any) -> Path:
    """Path and prediction of any diffusers scheduler of the DDPM family (zero-terminal-SNR included).

    Raises:
        Refusal: if the scheduler is of no DDPM family, or its `prediction_type` neither "epsilon" nor "v_prediction".
    """
    require_ddpm(scheduler)
    predictions = {"epsilon": Epsilon(), "v_prediction": Velocity()}
    kind = scheduler.config.get("prediction_type")
    if kind not in list(predictions):
        raise Refusal(f"The base's scheduler has prediction_type {kind!r}; known are {', '.join(predictions)}.")
    # Without the note of which settings are defaults: those of another class are others.
    settings = {name: value for name, value in scheduler.config.items() if name != "_use_default_values"}
    ddpm: Any = DDPMScheduler.from_config(settings)
    alpha_bar, own = ddpm.alphas_cumprod, scheduler.alphas_cumprod.float()
    # A scheduler may know a setting that others do not, as CogVideoX's shift of the SNR.
    if (own - alpha_bar).abs().max().item() > SAME:
        alpha_bar = own
    return Path(alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), torch.arange(len(alpha_bar)), predictions[kind])


def flow_path(scheduler: Any) -> Path:
    """The straight path a + s = 1 at evenly spaced noise s = 1/n, 2/n, ..., 1 (rectified flow, arXiv:2209.03003).

    A shift of the scheduler's is none of the path but of the times that are drawn.

    Raises:
        Refusal: if the scheduler is for no flow.
    """
    require_flow(scheduler)
    n = scheduler.config.num_train_timesteps
    s = torch.arange(1, n + 1) / n
    return Path(1 - s, s, s * n, Flow(), TokenShift.of(scheduler))


class UNetFamily(Family):
    """A UNet of Stable Diffusion; one that takes a pooled state is told of the pictures, too.

    Attributes:
        added: `addition_embed_type` of its UNets.
        normalizes: whether the pipeline knows a VAE's `latents_mean` and `latents_std`.
    """

    network: ClassVar[Any] = UNet2DConditionModel
    part: ClassVar[str] = "unet"
    large: ClassVar[tuple[str, ...]] = ()
    multiple: ClassVar[int] = 8
    added: ClassVar[str | None]
    normalizes: ClassVar[bool]

    def path(self, scheduler: Any) -> Path:
        return ddpm_path(scheduler)

    def tokenizer(self, kind: Any, path: str, name: str, encoder: Any, revision: str | None = None) -> Any:
        return load_tokenizer(kind, path, name, encoder, revision)

    def reads(self, parts: Any) -> tuple[Any, int]:
        return parts.tokenizer, parts.tokenizer.model_max_length

    def posterior(self, parts: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return find_posterior(parts.vae, pixels)

    def scaling(self, parts: Any) -> float:
        return parts.vae.config.scaling_factor

    def decoded(self, parts: Any, latents: Tensor) -> Tensor:
        return parts.vae.decode(unscale_latents(parts.vae, latents)).sample

    def __call__(self, network: nn.Module, x_t: Tensor, told: Tensor, cond: Conditioning) -> Tensor:
        states: dict[str, Any] = {"encoder_hidden_states": cond.states["prompt"]}
        if cond.user is not None:
            states["cross_attention_kwargs"] = {"user_embeds": cond.user}
        if "pooled" in cond.states:
            added = {"text_embeds": cond.states["pooled"], "time_ids": cond.picture["time_ids"]}
            states["added_cond_kwargs"] = added
        return network(x_t, told, **states).sample

    def attend(self, network: Any, kind: str) -> None:
        attend_unet(network, kind)

    def require_fits(self, pipeline: Any, path: str, network: str, vae: str) -> None:
        require_unet(pipeline, path, network, vae, self.added, self.normalizes)

    def require_width(self, network: Any, width: int, path: str) -> None:
        require_unet_width(network, width, path)


@dataclass(frozen=True)
class FlowFamily(Family):
    """A transformer on the straight path, whose VAE's config says shift and scale.

    Args:
        length: tokens that are read of a prompt.

    Attributes:
        longest: that the pipeline reads; None if it says nothing.

    Raises:
        Refusal: if the length is not positive, or is longer, or a guidance is no number from 0.
    """

    longest: ClassVar[int | None] = None
    encoders: ClassVar[tuple[str, ...]] = ("vae", "text_encoder", "tokenizer")
    length: int = 512

    def __post_init__(self):
        name = f"length of {type(self).__name__}"
        require_at_least(1, **{name: self.length})
        if self.longest is not None and self.length > self.longest:
            raise Refusal(f"{name} must be at most {self.longest}, which its pipeline reads, got {self.length}.")
        if self.guidance is not None and not 0 <= self.guidance < inf:
            raise Refusal(f"guidance of {type(self).__name__} must be a number from 0, got {self.guidance}.")

    def path(self, scheduler: Any) -> Path:
        return flow_path(scheduler)

    def reads(self, parts: Any) -> tuple[Any, int]:
        return parts.tokenizer, self.length

    def posterior(self, parts: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
        posterior, config = parts.vae.encode(pixels).latent_dist, parts.vae.config
        shift, scale = config.shift_factor or 0, config.scaling_factor
        return (posterior.mean - shift) * scale, posterior.std * scale

    def decoded(self, parts: Any, latents: Tensor) -> Tensor:
        config = parts.vae.config
        latents = latents / config.scaling_factor + (config.shift_factor or 0)
        return parts.vae.decode(latents, return_dict=False)[0]

    def arguments(self, guidance: float) -> dict[str, Any]:
        return {"guidance_scale": guidance, "max_sequence_length": self.length}


def find_tokens(tokenizer: Any, prompts: Sequence[str], device: torch.device) -> Int[Tensor, "n l"]:
    """Ids of prompts, padded and cut to what the tokenizer allows."""
    longest = tokenizer.model_max_length
    padded = tokenizer(prompts, padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
    return padded.input_ids.to(device)


def find_room(tokenizer: Any, length: int, around: str) -> int:
    """Tokens that a prompt may have inside a chat template.

    Args:
        around: the template with the empty prompt.

    Raises:
        Refusal: if the template takes all of a length.
    """
    whole, empty = (len(tokenizer(text).input_ids) for text in (around, ""))
    if whole >= length:
        raise Refusal(f"A length of {length} tokens leaves prompts none beside the {whole} of a template; raise it.")
    return length - whole + empty


def pack(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n tokens d"]:
    """Every 2 x 2 latents as one token."""
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h // 2 * (w // 2), c * 4)


def unpack(x: Float[Tensor, "n tokens d"], h: int, w: int) -> Float[Tensor, "n c h w"]:
    """The inverse of `pack`."""
    n, _, d = x.shape
    return x.view(n, h // 2, w // 2, d // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(n, d // 4, h, w)


def unpack_square(x: Float[Tensor, "n tokens d"]) -> Float[Tensor, "n c h h"]:
    """As `unpack`, of a square picture."""
    side = 2 * isqrt(x.shape[1])
    return unpack(x, side, side)


def number_places(h: int, w: int, like: Tensor) -> Float[Tensor, "tokens 3"]:
    """Row and column of each token, after a zero."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(h * w, 3).to(like)


def mask_states(prompt: Float[Tensor, "n l d"], mask: Tensor) -> dict[str, Tensor]:
    """Padded prompts and which of their tokens are told; what is padded is zeros, as where it is stored or joined."""
    mask = mask.bool()
    return {"prompt": prompt * mask[..., None].to(prompt), "mask": mask}


def pad_prompts(prompts: Sequence[Tensor]) -> dict[str, Tensor]:
    """Prompts of different lengths, (l, d) each, as one block, and which of its tokens are told."""
    block = nn.utils.rnn.pad_sequence(list(prompts), batch_first=True)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=block.device)
    return {"prompt": block, "mask": torch.arange(block.shape[1], device=block.device)[None] < lengths[:, None]}


def channel_statistics(vae: Any) -> tuple[Float[Tensor, "1 c 1 1"], Float[Tensor, "1 c 1 1"]]:
    """Mean and deviation of latents by channel, which the config of a VAE says."""
    said = (vae.config.latents_mean, vae.config.latents_std)
    mean, std = (torch.tensor(values, device=vae.device).view(1, -1, 1, 1) for values in said)
    return mean, std


# Of diffusers' dispatcher of attention; native is what it takes by itself.
BACKENDS = {"flash": "_native_flash", "xformers": "xformers"}


def dispatch_attention(network: Any, kind: str) -> None:
    """Let a transformer whose attention diffusers dispatches, without masks, compute it by a kernel.

    Raises:
        Refusal: if it is not installed.
    """
    if kind == "native":
        return
    others = _AttentionBackendRegistry.get_active_backend()[0]
    try:
        network.set_attention_backend(BACKENDS[kind])
        _AttentionBackendRegistry.set_active_backend(others)  # diffusers sets it for every network of the process
    except (ImportError, RuntimeError, ValueError) as error:
        raise Refusal(f"base.attention {kind} cannot be used ({error}); set it to native.") from error
