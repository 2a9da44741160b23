"""Weights and pictures that any Python with any numpy makes alike, so that golden numbers need no stored networks.

Only numpy's legacy generator is used, whose streams never change.
"""

import zlib

import numpy as np
from PIL import Image


def weights(shapes: dict[str, tuple[int, ...]], scale: float = 0.2) -> dict[str, np.ndarray]:
    """fp32 arrays, each a pure function of its name and shape: norms' weights about 1, all else about 0."""
    return {name: tensor(name, shape, scale) for name, shape in shapes.items()}


def tensor(name: str, shape: tuple[int, ...], scale: float) -> np.ndarray:
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    drawn = (scale * rng.standard_normal(shape)).astype(np.float32)
    is_norm = name.endswith("weight") and any(part in name.lower() for part in ("norm", "ln_", "bn"))
    return drawn + np.float32(1) if is_norm else drawn


def picture(width: int, height: int, seed: int, mode: str = "RGB") -> Image.Image:
    """A smooth color gradient with blocks on it: what resizing and cropping change visibly."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(rng.uniform(2, 12) * x + rng.uniform(2, 12) * y + rng.uniform(0, 6)) for _ in range(4)]
    pixels = np.stack(waves, axis=-1) * 90 + 128
    for _ in range(6):
        top, left = rng.randint(0, height), rng.randint(0, width)
        pixels[top : top + height // 4, left : left + width // 4] = rng.randint(0, 256, size=4)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGBA").convert(mode)
