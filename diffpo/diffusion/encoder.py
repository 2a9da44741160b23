"""From pixels and prompts to what the frozen parts make of them: posteriors and text states."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffpo.core import PairLabels
from diffpo.diffusion.conditioning import Conditioner
from diffpo.diffusion.denoiser import Conditioning, ImageBatch
from diffpo.diffusion.pixels import PixelBatch
from diffpo.draws import Draws

PIXELS = 2**22  # encoded at a time: 4 pictures of 1024 x 1024 take about 8 GiB in the VAE's fp32 encoder


@dataclass(frozen=True, eq=False)
class EncodedBatch:
    """Pairs as posteriors of the VAE and text states: all that training needs of pictures and prompts.

    Attributes:
        mean, std: of the posterior, in any type; sampling computes in fp32.
        scaling: what latents are multiplied by (`scaling_factor` of the VAE).
        epoch, row: keys of the batch's random draws.
        broken: epochs and ids of pairs passed over because a picture could not be read.
    """

    mean: Float[Tensor, "k b c h w"]
    std: Float[Tensor, "k b c h w"]
    scaling: float
    cond: Conditioning
    label: PairLabels
    epoch: tuple[int, ...]
    row: tuple[int, ...]
    broken: tuple[tuple[int, int], ...] = ()

    def map(self, change: Callable[[Tensor], Tensor]) -> "EncodedBatch":
        return replace(
            self,
            mean=change(self.mean),
            std=change(self.std),
            cond=self.cond.map(change),
            label=self.label.map(change),
        )

    def pin_memory(self) -> "EncodedBatch":
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> "EncodedBatch":
        return self.map(lambda x: x.to(device, non_blocking=True))

    def sampled(self, draws: Draws) -> ImageBatch:
        """Latents drawn from the posterior, with noise that the sides of a pair share."""
        noise = draws.normal("vae", *self.mean.shape[2:])
        latents = (self.mean.float() + self.std.float() * noise) * self.scaling
        return ImageBatch(latents, self.cond, self.label, self.row)


@dataclass(frozen=True, eq=False)
class Encoder:
    """The frozen VAE, in fp32, and the text encoders of a base."""

    vae: Any
    conditioner: Conditioner

    @torch.no_grad()
    def __call__(self, raw: PixelBatch) -> EncodedBatch:
        """A batch that is on the encoders' device."""
        mean, std = (x.unflatten(0, raw.pixels.shape[:2]) for x in self.posterior(raw.pixels.flatten(0, 1)))
        scaling = self.vae.config.scaling_factor
        return EncodedBatch(mean, std, scaling, self.conditioner(raw), raw.label, raw.epoch, raw.row, raw.broken)

    def posterior(self, pixels: UInt8[Tensor, "n 3 H W"]) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """Mean and deviation, computed on a bounded number of pixels at a time."""
        pictures = max(1, PIXELS // (pixels.shape[-1] * pixels.shape[-2]))
        found = [self.vae.encode(some.float() / 127.5 - 1).latent_dist for some in pixels.split(pictures)]
        return torch.cat([part.mean for part in found]), torch.cat([part.std for part in found])
