"""Qwen-Image (arXiv:2508.02324)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
from torch import Tensor, nn

from diffpo.diffusion.data.batches import Conditioning, States
from diffpo.diffusion.families.common import (
    FlowFamily,
    channel_statistics,
    mask_states,
    pack,
    unpack,
    unpack_square,
)


@dataclass(frozen=True)
class QwenImage(FlowFamily):
    """Prompts are the last states of a Qwen2.5-VL, of as many tokens as they have; the VAE has an axis of frames.

    Args:
        length: tokens that are read.
    """

    pipeline: ClassVar[Any] = QwenImagePipeline
    longest: ClassVar[int | None] = 1024
    network: ClassVar[Any] = QwenImageTransformer2DModel
    vae: ClassVar[Any] = AutoencoderKLQwenImage

    def states(self, parts: Any, prompts: list[str]) -> States:
        told = {"device": parts.text_encoder.device, "max_sequence_length": self.length}
        prompt, mask = parts.encode_prompt(prompts, **told)
        return mask_states(prompt, prompt.new_ones(prompt.shape[:2]) if mask is None else mask)

    def posterior(self, parts: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
        (center, width), posterior = channel_statistics(parts.vae), parts.vae.encode(pixels[:, :, None]).latent_dist
        return (posterior.mean[:, :, 0] - center) / width, posterior.std[:, :, 0] / width

    def decoded(self, parts: Any, latents: Tensor) -> Tensor:
        center, width = (x.to(latents) for x in channel_statistics(parts.vae))
        return parts.vae.decode((latents * width + center)[:, :, None], return_dict=False)[0][:, :, 0]

    def drawn(self, parts: Any, latents: Tensor) -> Tensor:
        return unpack_square(latents)

    def arguments(self, guidance: float) -> dict[str, Any]:
        """Guidance in two calls; without a negative prompt there would be none."""
        return {"true_cfg_scale": guidance, "negative_prompt": " ", "max_sequence_length": self.length}

    def __call__(self, network: nn.Module, x_t: Tensor, told: Tensor, cond: Conditioning) -> Tensor:
        (h, w), mask = x_t.shape[-2:], cond.states["mask"]
        states = {
            "encoder_hidden_states": cond.states["prompt"],
            "encoder_hidden_states_mask": None if bool(mask.all()) else mask.to(torch.long),
        }
        shapes = [[(1, h // 2, w // 2)]] * len(x_t)
        out = network(hidden_states=pack(x_t), timestep=told / 1000, **states, img_shapes=shapes, return_dict=False)[0]
        return unpack(out, h, w)
