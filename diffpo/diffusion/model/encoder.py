"""From pixels and prompts to what the frozen parts make of them: posteriors and text states."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffpo.diffusion.base.latents import latent_statistics
from diffpo.diffusion.data.batches import EncodedBatch, ImageBatch, PixelBatch, PromptBatch
from diffpo.diffusion.model.conditioning import Conditioner
from diffpo.diffusion.model.pipeline import FAMILIES

PIXELS = 2**22  # encoded at a time: 4 pictures of 1024 x 1024 take about 8 GiB in the VAE's fp32 encoder


@dataclass(frozen=True, eq=False)
class Encoder:
    """The frozen VAE, in fp32, and the text encoders of a base."""

    vae: Any
    conditioner: Conditioner

    @classmethod
    def of(cls, parts: Any, storage: torch.dtype = torch.float32) -> "Encoder":
        """The encoders of a pipeline, frozen.

        Args:
            storage: type of the text encoders, and so of the states.
        """
        encoder = cls(parts.vae, FAMILIES[type(parts).__name__].conditioner(parts))
        for module in encoder.modules:
            module.requires_grad_(False).eval()
        for _, text_encoder in encoder.conditioner.encoders:
            text_encoder.to(storage)
        return encoder

    @property
    def modules(self) -> list[Any]:
        return [self.vae, *(text_encoder for _, text_encoder in self.conditioner.encoders)]

    def to(self, device: torch.device | str) -> "Encoder":
        """The same encoders, moved in place."""
        for module in self.modules:
            module.to(device)
        return self

    @torch.no_grad()
    def __call__(self, raw: PixelBatch) -> EncodedBatch:
        """A batch that is on the encoders' device."""
        mean, std = (x.unflatten(0, raw.pixels.shape[:2]) for x in self.posterior(raw.pixels.flatten(0, 1)))
        scaling, passed_over = self.vae.config.scaling_factor, (raw.broken, raw.identical)
        return EncodedBatch(mean, std, scaling, self.conditioner(raw), raw.label, raw.epoch, raw.row, *passed_over)

    @torch.no_grad()
    def blank(self, raw: PromptBatch) -> ImageBatch:
        """A batch of prompts, with zeros for latents."""
        side = raw.side // 2 ** (len(self.vae.config.block_out_channels) - 1)
        shape = (1, len(raw.row), self.vae.config.latent_channels, side, side)
        return ImageBatch(torch.zeros(shape, device=raw.time_ids.device), self.conditioner(raw), raw.label, raw.row)

    @torch.no_grad()
    def posterior(self, pixels: UInt8[Tensor, "n 3 H W"]) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """Mean and deviation, computed on a bounded number of pixels at a time; normalized by channel if the VAE's
        config says so, but not yet scaled."""
        parts = pixels.split(at_a_time(pixels))
        found = [self.vae.encode(some.float() / 127.5 - 1).latent_dist for some in parts]
        mean, std = torch.cat([part.mean for part in found]), torch.cat([part.std for part in found])
        if (of_channels := latent_statistics(self.vae)) is not None:
            center, width = of_channels
            mean, std = (mean - center) / width, std / width
        return mean.contiguous(), std.contiguous()  # or the UNet's bits would depend on the layout the VAE happened on


def at_a_time(pixels: UInt8[Tensor, "... 3 H W"]) -> int:
    """Pictures of that size that are encoded at a time."""
    return max(1, PIXELS // (pixels.shape[-1] * pixels.shape[-2]))
