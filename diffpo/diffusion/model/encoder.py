"""From pixels and prompts to what the frozen parts make of them: posteriors and text states."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.family import Family
from diffpo.diffusion.base.quantize import cast_weights
from diffpo.diffusion.data.batches import EncodedBatch, ImageBatch, PixelBatch, PromptBatch
from diffpo.diffusion.model.conditioning import Conditioner
from diffpo.diffusion.model.pipeline import family_of

PIXELS = 2**22  # encoded at a time: 4 pictures of 1024 x 1024 take about 8 GiB in the VAE's fp32 encoder


@dataclass(frozen=True, eq=False)
class Encoder:
    """The frozen VAE, in fp32, and the text encoders of a base; either may be left out where it is not asked."""

    vae: Any
    conditioner: Conditioner
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)  # of latents, by the side of square pictures

    @classmethod
    def of(
        cls, parts: Any, storage: torch.dtype = torch.float32, family: Family | None = None, offloads: bool = False
    ) -> "Encoder":
        """The encoders of a pipeline, frozen.

        Args:
            storage: type of the text encoders, and so of the states.
            family: None is that of the pipeline's class.
            offloads: as of `Conditioner`.
        """
        encoder = cls(parts.vae, Conditioner(family or family_of(parts), parts, offloads))
        for module in encoder.modules:
            module.requires_grad_(False).eval()
        for text_encoder in encoder.conditioner.encoders:
            cast_weights(text_encoder, storage)
        return encoder

    @property
    def modules(self) -> list[Any]:
        return [part for part in (self.vae, *self.conditioner.encoders) if part is not None]

    @property
    def family(self) -> Family:
        return self.conditioner.family

    @property
    def scaling(self) -> float:
        """What latents are multiplied by after they were drawn."""
        return self.family.scaling(self.conditioner.parts)

    def to(self, device: torch.device | str) -> "Encoder":
        """The same encoders, moved in place."""
        for module in self.modules:
            module.to(device)
        return self

    @torch.no_grad()
    def __call__(self, raw: PixelBatch) -> EncodedBatch:
        """A batch that is on the encoders' device."""
        mean, std = (x.unflatten(0, raw.pixels.shape[:2]) for x in self.posterior(raw.pixels.flatten(0, 1)))
        passed_over = raw.broken, raw.identical
        return EncodedBatch(
            mean, std, self.scaling, self.conditioner(raw), raw.label, raw.epoch, raw.row, *passed_over
        )

    @torch.no_grad()
    def blank(self, raw: PromptBatch) -> ImageBatch:
        """A batch of prompts, with zeros for latents."""
        device = raw.time_ids.device
        if raw.side not in self.shapes:
            black = torch.zeros(1, 3, raw.side, raw.side, dtype=torch.uint8, device=device)
            self.shapes[raw.side] = self.posterior(black)[0].shape[1:]
        latents = torch.zeros(1, len(raw.row), *self.shapes[raw.side], device=device)
        return ImageBatch(latents, self.conditioner(raw), raw.label, raw.row)

    @torch.no_grad()
    def posterior(self, pixels: UInt8[Tensor, "n 3 H W"]) -> tuple[Float[Tensor, "n ..."], Float[Tensor, "n ..."]]:
        """Mean and deviation, computed on a bounded number of pixels at a time; see `Family.posterior`.

        Raises:
            Refusal: if the sides of the pictures are none that the family takes.
        """
        require_sides([tuple(pixels.shape[-2:])], self.family)
        parts = pixels.split(at_a_time(pixels))
        found = [self.family.posterior(self.conditioner.parts, some.float() / 127.5 - 1) for some in parts]
        mean, std = (torch.cat(some) for some in zip(*found, strict=True))
        return mean.contiguous(), std.contiguous()  # or the UNet's bits would depend on the layout the VAE happened on


def require_sides(shapes: Sequence[tuple[int, ...]], family: Family) -> None:
    """Raise a Refusal if pictures of such heights and widths are none that a family takes."""
    if odd := [shape for shape in shapes if any(side % family.multiple for side in shape)]:
        raise Refusal(
            f"{type(family).__name__} takes pictures whose sides are multiples of {family.multiple}, not "
            f"{' x '.join(map(str, odd[0]))}; set data.framing.resolution (and bucket_step) to such numbers."
        )


def at_a_time(pixels: UInt8[Tensor, "... 3 H W"]) -> int:
    """Pictures of that size that are encoded at a time."""
    return max(1, PIXELS // (pixels.shape[-1] * pixels.shape[-2]))
