"""The oracle: measures each attribute of any picture of the tiny world by image analysis, nothing learned.

It stands for the person whose taste the preference pairs express (`utility`), so its noise-free verdict may judge
what was trained on its noisy one. A picture without one clean object on a plain background measures as not clean
and loses every comparison: noise pictures must not win by their "large object".
"""

import colorsys
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
from PIL import Image

from diffpo.lab.shapes.scenes import (
    BACKGROUNDS,
    EXTENT,
    HUES,
    POSITIONS,
    SHAPES,
    SIZES,
    VIVIDNESS,
    Attributes,
    signed_distance,
)

ndimage: Any = scipy.ndimage  # scipy is not annotated

SIDE = 96  # pictures are measured at this size, so that thresholds in pixels mean the same for all of them
GRID = 24  # masks are compared with the shapes on a GRID x GRID raster of their bounding box


@dataclass(frozen=True)
class Measurement:
    """What the oracle sees in one picture.

    Attributes:
        clean: whether there is exactly one plain, recognisable object on a plain background.
        seen: the nearest value of each attribute; empty when not clean.
        extent: half the mean side of the object's bounding box, as a fraction of the picture.
        vividness: saturation of the object's color, in [0, 1].
        flaw: why it is not clean; empty when it is.
    """

    clean: bool
    seen: Attributes
    extent: float = 0.0
    vividness: float = 0.0
    flaw: str = ""

    def right(self, asked: Attributes) -> float:
        """Share of the stated attributes that the picture shows."""
        stated = asked.stated()
        return sum(getattr(self.seen, name) == value for name, value in stated.items()) / len(stated)


def measure(picture: Image.Image) -> Measurement:
    """Measure a picture of any size; see `Measurement`."""
    enlarged = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = np.asarray(enlarged, dtype=np.float32) / 255
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    behind = np.median(border, axis=0)
    distance = np.linalg.norm(pixels - behind, axis=-1)
    if distance.max() < 0.2:
        return unclean("nothing stands out from the background")
    color = np.median(pixels[distance > 0.7 * distance.max()], axis=0)
    # Half-way between background and object is where an antialiased or slightly blurred edge really is.
    mask = distance > 0.5 * np.linalg.norm(color - behind)
    regions, _ = ndimage.label(mask)
    areas = np.bincount(regions.ravel())[1:]
    largest = int(areas.argmax()) + 1
    if areas.sum() - areas[largest - 1] > 0.06 * areas[largest - 1] + 2:
        return unclean("more than one object")
    mask = regions == largest
    if not 0.008 < mask.mean() < 0.4:
        return unclean("the object is too small or too large")
    outside = ~ndimage.binary_dilation(mask, iterations=SIDE // 16)
    if pixels[outside].std(axis=0).max() > 0.06:
        return unclean("the background is not plain")
    inside = ndimage.binary_erosion(mask, iterations=SIDE // 32)
    if not inside.any():
        return unclean("the object is only a line")
    if pixels[inside].std(axis=0).max() > 0.09:
        return unclean("the object is not of one color")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    sides = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    if max(sides) > 1.33 * min(sides):
        return unclean("the object is stretched")
    relative = distance / np.linalg.norm(color - behind)
    edge = ((relative > 0.25) & (relative < 0.75)).sum() / (mask & ~ndimage.binary_erosion(mask)).sum()
    if edge > 0.22 * min(sides):
        return unclean("the object is blurred")
    shape, overlap = nearest_shape(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    if overlap < 0.7:
        return unclean(f"the object has no clear shape (nearest is {shape})")
    height, width = len(mask), len(mask[0])
    middle = ((columns[0] + columns[-1] + 1) / 2 / width, (rows[0] + rows[-1] + 1) / 2 / height)
    extent = (len(rows) / height + len(columns) / width) / 4
    inner = np.median(pixels[inside], axis=0)
    hue, vividness, _ = colorsys.rgb_to_hsv(*inner.tolist())
    if vividness < 0.2:
        return unclean("the object has no color")
    seen = Attributes(
        color=min(HUES, key=lambda name: abs((HUES[name] - 360 * hue + 180) % 360 - 180)),
        shape=shape,
        background=min(BACKGROUNDS, key=lambda name: float(np.linalg.norm(behind - np.array(BACKGROUNDS[name])))),
        position=min(POSITIONS, key=lambda name: float(np.hypot(*np.subtract(middle, POSITIONS[name])))),
        size=next((name for name, (low, high) in SIZES.items() if low - 0.02 < extent < high + 0.02), None),
    )
    return Measurement(clean=True, seen=seen, extent=extent, vividness=vividness)


def unclean(flaw: str) -> Measurement:
    return Measurement(clean=False, seen=Attributes(), flaw=flaw)


def nearest_shape(mask: np.ndarray) -> tuple[str, float]:
    """Name of the shape that overlaps best with a mask cropped to its bounding box, and that overlap (IoU)."""
    raster = (np.arange(GRID) + 0.5) / GRID
    rows, columns = (raster * mask.shape[0]).astype(int), (raster * mask.shape[1]).astype(int)
    crop = mask[np.ix_(rows, columns)]
    axis = 2 * raster - 1
    overlap = {}
    for shape in SHAPES:
        template = signed_distance(shape, axis[None, :], axis[:, None]) < 0
        overlap[shape] = float((crop & template).sum() / (crop | template).sum())
    best = max(overlap, key=lambda shape: overlap[shape])
    return best, overlap[best]


def style(measured: Measurement, asked: Attributes) -> float:
    """What the hidden taste likes beyond faithfulness, in [0, 1]: vivid colors, large objects where size is open."""
    if not measured.clean:
        return 0.0
    vivid = share(measured.vividness, VIVIDNESS)
    return vivid if asked.size else (vivid + share(measured.extent, EXTENT)) / 2


def share(value: float, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return min(max((value - low) / (high - low), 0.0), 1.0)


def utility(measured: Measurement, asked: Attributes) -> float:
    """The hidden utility: share of right attributes plus style; -1 without a clean object."""
    return measured.right(asked) + style(measured, asked) if measured.clean else -1.0


def noisy_label(gap: float, rng: np.random.Generator, temperature: float = 0.1, tie: float = 0.2) -> float:
    """1, 0 or 0.5 for a first win, second win or tie, drawn by Rao and Kupper's model (JASA 1967) of a utility gap.

    Args:
        temperature: of the Bradley-Terry part; a gap of this size is told apart in about 3 of 4 comparisons.
        tie: threshold below which a difference goes unnoticed; 0 never ties.
    """
    first, second = (1 / (1 + np.exp(-(sign * gap / temperature - tie))) for sign in (1, -1))
    draw = rng.random()
    return 1.0 if draw < first else 0.0 if draw < first + second else 0.5
