"""Sana (arXiv:2410.10629)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel
from torch import Tensor, nn

from diffpo.diffusion.data.batches import Conditioning, States
from diffpo.diffusion.families.common import FlowFamily, mask_states


@dataclass(frozen=True)
class Sana(FlowFamily):
    """Prompts are Gemma's states, as they are: without the instruction that its pipeline may put before them.

    Args:
        length: tokens that are read.
    """

    pipeline: ClassVar[Any] = SanaPipeline
    patch: ClassVar[int] = 1
    network: ClassVar[Any] = SanaTransformer2DModel
    vae: ClassVar[Any] = AutoencoderDC
    targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v")
    multiple: ClassVar[int] = 32
    width: ClassVar[str] = "caption_channels"
    length: int = 300

    def states(self, parts: Any, prompts: list[str]) -> States:
        told = {"device": parts.text_encoder.device, "max_sequence_length": self.length}
        prompt, mask, _, _ = parts.encode_prompt(prompts, do_classifier_free_guidance=False, **told)
        return mask_states(prompt, mask)

    def posterior(self, parts: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Its VAE has no posterior: the deviation is zero."""
        mean = parts.vae.encode(pixels).latent * parts.vae.config.scaling_factor
        return mean, torch.zeros_like(mean)

    def decoded(self, parts: Any, latents: Tensor) -> Tensor:
        return parts.vae.decode(latents / parts.vae.config.scaling_factor, return_dict=False)[0]

    def arguments(self, guidance: float) -> dict[str, Any]:
        plain = {"complex_human_instruction": None, "use_resolution_binning": False, "clean_caption": False}
        return {"guidance_scale": guidance, "max_sequence_length": self.length} | plain

    def __call__(self, network: nn.Module, x_t: Tensor, told: Tensor, cond: Conditioning) -> Tensor:
        config: Any = network.config
        states = {"encoder_hidden_states": cond.states["prompt"], "encoder_attention_mask": cond.states["mask"]}
        return network(x_t, timestep=told * config.timestep_scale, **states, return_dict=False)[0]
