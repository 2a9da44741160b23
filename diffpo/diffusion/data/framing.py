"""Pixels of a pair: one crop and flip for both sides."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal


class Framed(NamedTuple):
    """The candidates of one row, cropped to one shape.

    Attributes:
        time_ids: what SDXL is told of each picture (arXiv:2307.01952, section 2.2): height and width as stored, top
            and left of the crop in the resized (and mirrored) picture, target height and width.
    """

    pixels: UInt8[Tensor, "k 3 h w"]
    time_ids: Float[Tensor, "k 6"]


@dataclass(frozen=True)
class Framing:
    """How pictures become squares: short side to `resolution` (bilinear, as in Diffusion-DPO), then a square crop.

    Crop place and flip are drawn once per pair. Pictures of one pair may differ in size: the crop stands at the same
    relative place in both.

    Args:
        resolution: side in pixels.
        random_crop: False crops the center.
        flip: mirror half of the pairs. Switch it off where left and right matter.
        bucket_step: null crops squares; otherwise each pair is cropped to the one shape, of about resolution^2 pixels,
            sides multiples of this, that suits its pictures best (64 for SDXL). For encoded pairs.

    Raises:
        Refusal: if the resolution is not a positive multiple of 8, or the step not such a divisor of it.
    """

    resolution: int = 512
    random_crop: bool = False
    flip: bool = True
    bucket_step: int | None = None

    def __post_init__(self):
        if self.resolution <= 0 or self.resolution % 8:
            raise Refusal(f"data.framing.resolution must be a positive multiple of 8, got {self.resolution}.")
        step = self.bucket_step
        if step is not None and (step <= 0 or step % 8 or self.resolution % step):
            raise Refusal(
                f"data.framing.bucket_step must be a positive multiple of 8 that divides data.framing.resolution "
                f"{self.resolution}, got {step}."
            )

    def __call__(self, pictures: Sequence[Image.Image], draws: Draws) -> Framed:
        across, down = (
            (draws.uniform("crop_x").item(), draws.uniform("crop_y").item()) if self.random_crop else (0.5, 0.5)
        )
        return self.framed(pictures, self.mirrors(draws), across, down)

    def mirrors(self, draws: Draws) -> bool:
        """Whether the pair is mirrored in this visit."""
        return self.flip and draws.uniform("flip").item() < 0.5

    def framed(
        self, pictures: Sequence[Image.Image], mirrored: bool, across: float = 0.5, down: float = 0.5
    ) -> Framed:
        """Crops at a relative place, by default the center."""
        height, width = self.shapes[self.shape_of(pictures)]
        crops, time_ids = zip(
            *(crop_picture(picture, height, width, across, down, mirrored) for picture in pictures), strict=True
        )
        pixels = torch.from_numpy(np.stack([np.asarray(cropped) for cropped in crops])).permute(0, 3, 1, 2)
        return Framed(pixels, torch.tensor(time_ids, dtype=torch.float32))

    @cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """Heights and widths that pairs are cropped to, tall ones first.

        With steps: from 1:2 to 2:1, with 90 to 100 % of resolution^2 pixels. For 1024 and 64, these are the shapes of
        SDXL's authors (arXiv:2307.01952, section 2.3; github.com/Stability-AI/generative-models), whose table goes on
        to longer ones.
        """
        if self.bucket_step is None:
            return [(self.resolution, self.resolution)]
        pixels, sides = self.resolution**2, range(self.bucket_step, 2 * self.resolution, self.bucket_step)
        shapes = [
            (h, w) for h in sides for w in sides if 0.9 * pixels <= h * w <= pixels and h <= 2 * w and w <= 2 * h
        ]
        return sorted(shapes, key=lambda shape: shape[1] / shape[0])

    def shape_of(self, pictures: Sequence[Image.Image]) -> int:
        """Number of the shape whose aspect ratio is nearest (as a log) to the geometric mean of the pictures'."""
        aspect = np.mean([np.log(picture.width / picture.height) for picture in pictures])
        return int(np.argmin([abs(np.log(width / height) - aspect) for height, width in self.shapes]))


def crop_picture(
    picture: Image.Image, height: int, width: int, across: float, down: float, mirrored: bool
) -> tuple[Image.Image, tuple[int, ...]]:
    """The picture in that shape, and its time ids."""
    scale = max(width / picture.width, height / picture.height)
    wide, high = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    left, top = round(across * (wide - width)), round(down * (high - height))
    resized = picture.resize((wide, high), Image.Resampling.BILINEAR)
    cropped = resized.crop((left, top, left + width, top + height))
    if mirrored:
        cropped, left = ImageOps.mirror(cropped), wide - width - left
    return cropped, (picture.height, picture.width, top, left, height, width)
