"""Pixels of a pair: decoding whatever a column holds, and one crop and flip for both sides."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from diffpo.draws import Draws


class BrokenImage(ValueError):
    """A picture that cannot be read; it costs its pair, not the run."""


def read_image(value: Any, folder: Path = Path()) -> Image.Image:
    """Decode bytes, a path, a {"bytes", "path"} mapping or a PIL image to RGB.

    Rotation stored by cameras is applied, transparency is laid on white, grey, palette, 16-bit and CMYK become RGB.

    Args:
        folder: what relative paths are relative to.

    Raises:
        BrokenImage: if there is nothing, or nothing that decodes.
    """
    if isinstance(value, Mapping):
        value = value["bytes"] if value["bytes"] is not None else value["path"]
    if value is None:
        raise BrokenImage("it is null")
    try:
        if isinstance(value, bytes):
            value = Image.open(BytesIO(value))
        elif isinstance(value, str | Path):
            value = Image.open(folder / value)
        return to_rgb(ImageOps.exif_transpose(value))
    # PIL raises OSError for most damage, but also these for a few formats.
    except (OSError, SyntaxError, ValueError, TypeError, AttributeError, Image.DecompressionBombError) as error:
        raise BrokenImage(f"{type(error).__name__}: {error}") from error


def to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture) // 256).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return picture.convert("RGB")


@dataclass(frozen=True)
class Framing:
    """How pictures become squares: short side to `resolution` (bilinear, as in Diffusion-DPO), then a square crop.

    Crop place and flip are drawn once per pair. Pictures of one pair may differ in size: the crop stands at the same
    relative place in both.

    Args:
        resolution: side in pixels.
        random_crop: False crops the center.
        flip: mirror half of the pairs. Switch it off where left and right matter.

    Raises:
        ValueError: if the resolution is not a positive multiple of 8.
    """

    resolution: int = 512
    random_crop: bool = False
    flip: bool = True

    def __post_init__(self):
        if self.resolution <= 0 or self.resolution % 8:
            raise ValueError(f"data.framing.resolution must be a positive multiple of 8, got {self.resolution}.")

    def __call__(self, pair: tuple[Image.Image, Image.Image], draws: Draws) -> UInt8[Tensor, "2 3 r r"]:
        across, down = (
            (draws.uniform("crop_x").item(), draws.uniform("crop_y").item()) if self.random_crop else (0.5, 0.5)
        )
        framed = [self.crop(picture, across, down) for picture in pair]
        if self.flip and draws.uniform("flip").item() < 0.5:
            framed = [ImageOps.mirror(picture) for picture in framed]
        return torch.from_numpy(np.stack([np.asarray(picture) for picture in framed])).permute(0, 3, 1, 2)

    def crop(self, picture: Image.Image, across: float, down: float) -> Image.Image:
        scale = self.resolution / min(picture.size)
        width, height = (max(self.resolution, round(side * scale)) for side in picture.size)
        resized = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round(across * (width - self.resolution)), round(down * (height - self.resolution))
        return resized.crop((left, top, left + self.resolution, top + self.resolution))
