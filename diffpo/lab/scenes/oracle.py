"""Reads scenes from any picture by image analysis, nothing learned: colours, connected regions, overlap with shapes.

It stands for the people whose tastes the pairs express. A picture in which it finds no clean object loses every
comparison, and what it could not read is named in `SeenScene.flaws`.
"""

import colorsys
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
from PIL import Image

from diffpo.lab.scenes.scenes import BACKGROUNDS, HUES, SHAPES, SIZES, Facts, Objects, Thing, holds, signed_distance

ndimage: Any = scipy.ndimage  # scipy is not annotated

SIDE = 96  # pictures are measured at this size, so that thresholds in pixels mean the same for all of them
GRID = 24  # masks are compared with the shapes on a GRID x GRID raster of their bounding box
RASTER = (np.arange(GRID) + 0.5) / GRID
TEMPLATES = {shape: signed_distance(shape, 2 * RASTER[None] - 1, 2 * RASTER[:, None] - 1) < 0 for shape in SHAPES}
LEAST = {"circle": 0.85, "square": 0.8, "triangle": 0.72, "cross": 0.72}  # overlap: any blob is nearly a circle
ANGLES = np.array([*HUES.values()])
KINDS = ("object", "number", "size", "relation", "background")


@dataclass(frozen=True)
class SeenScene:
    """What the oracle reads in one picture.

    Attributes:
        things: objects that it recognises.
        background: the nearest one.
        flaws: what it could not recognise.
    """

    things: tuple[Thing, ...]
    background: str
    flaws: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        return bool(self.things) and not self.flaws


def measure(picture: Image.Image) -> SeenScene:
    """Everything recognisable in a picture of any size."""
    enlarged = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = np.asarray(enlarged, dtype=np.float32) / 255
    behind = np.median(np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]]), axis=0)
    distance = np.linalg.norm(pixels - behind, axis=-1)
    regions, number = ndimage.label(distance > 0.17)
    found: list[Thing | str] = []
    for region in range(1, number + 1):
        inside = regions == region
        if (area := inside.sum()) >= 24:
            parts = split_colors(inside, pixels)
            found += [recognise(mask, pixels, distance, behind) for mask in parts]
            found += ["objects touch"] * (len(parts) > 1)
        elif area > 8:
            found.append("speck")
    outside = ~ndimage.binary_dilation(regions > 0, iterations=3)
    if not outside.any() or pixels[outside].std(axis=0).max() > 0.06:
        found.append("background not plain")
    background = min(BACKGROUNDS, key=lambda name: np.abs(behind - BACKGROUNDS[name]).sum())
    things = tuple(one for one in found if isinstance(one, Thing))
    return SeenScene(things, background, tuple(one for one in found if isinstance(one, str)))


def split_colors(inside: np.ndarray, pixels: np.ndarray) -> list[np.ndarray]:
    """A connected region cut into its colours, where objects of different colours touch."""
    values = pixels[inside]
    hue = 360 * np.array([colorsys.rgb_to_hsv(*value)[0] for value in values.tolist()])
    angles = np.abs((ANGLES - hue[:, None] + 180) % 360 - 180)
    classes = np.where(np.ptp(values, axis=1) > 0.3, angles.argmin(axis=1), -1)
    common = [c for c in range(len(HUES)) if (classes == c).sum() > max(60, 0.12 * len(values))]
    if len(common) < 2:
        return [inside]
    nearest, parts = angles[:, common].argmin(axis=1), []
    for i in range(len(common)):
        mask = np.zeros_like(inside)
        mask[inside] = nearest == i
        regions, number = ndimage.label(ndimage.binary_opening(mask, iterations=2))
        parts += [regions == j for j in range(1, number + 1) if (regions == j).sum() > 40]
    return parts


def recognise(inside: np.ndarray, pixels: np.ndarray, distance: np.ndarray, behind: np.ndarray) -> Thing | str:
    """The object in a mask, or what is wrong with it."""
    color = np.median(pixels[inside & (distance > 0.8 * distance[inside].max())], axis=0)
    share = distance / np.linalg.norm(color - behind)
    # Half-way between background and object is where an antialiased edge really is.
    regions, _ = ndimage.label(inside & (share > 0.5))
    areas = np.bincount(regions.ravel())[1:]
    mask = regions == areas.argmax() + 1
    (rows, columns), core = ndimage.find_objects(mask.astype(int))[0], ndimage.binary_erosion(mask, iterations=2)
    sides = rows.stop - rows.start, columns.stop - columns.start
    if areas.sum() - areas.max() > 0.06 * areas.max() + 2:
        return "broken object"
    if min(sides) < 12:
        return "tiny object"
    if max(sides) > 1.33 * min(sides) + 1:
        return "stretched or merged object"
    if not core.any() or pixels[core].std(axis=0).max() > 0.1:
        return "object not of one colour"
    if (inside & (share > 0.25) & (share < 0.75)).sum() > 3.5 * (mask & ~ndimage.binary_erosion(mask)).sum():
        return "blurred object"
    return name_object(mask, rows, columns, np.median(pixels[core], axis=0))


def name_object(mask: np.ndarray, rows: slice, columns: slice, color: np.ndarray) -> Thing | str:
    sides = rows.stop - rows.start, columns.stop - columns.start
    crop = mask[rows, columns][np.ix_((RASTER * sides[0]).astype(int), (RASTER * sides[1]).astype(int))]
    overlap = {shape: (crop & mold).sum() / (crop | mold).sum() for shape, mold in TEMPLATES.items()}
    shape = max(overlap, key=overlap.__getitem__)
    if overlap[shape] < LEAST[shape]:
        return "unclear shape"
    hue, vividness, _ = colorsys.rgb_to_hsv(*color.tolist())
    if vividness < 0.25:
        return "colourless object"
    name = tuple(HUES)[np.abs((ANGLES - 360 * hue + 180) % 360 - 180).argmin()]
    x, y = ((side.start + side.stop) / 2 / SIDE for side in (columns, rows))
    return Thing(name, shape, x, y, sum(sides) / 4 / SIDE, vividness)


def judge(seen: SeenScene, asked: Facts) -> dict[str, list[bool]]:
    """Which stated facts a picture shows, by kind: an object is right if its colour and shape are there together."""
    shown = {group: [thing for thing in seen.things if thing.kind == group.kind] for group in asked.groups}
    first = [things[0] for things in shown.values() if things]
    related = asked.relation and len(first) == 2 and holds(asked.relation, first[0], first[1])
    return {
        "object": [bool(things) for things in shown.values()],
        "number": [len(seen.things) == asked.number],
        "size": [sized(things, group) for group, things in shown.items() if group.size],
        "relation": [bool(related)] if asked.relation else [],
        "background": [seen.background == asked.background] if asked.background else [],
    }


def sized(things: list[Thing], group: Objects, slack: float = 0.02) -> bool:
    assert group.size is not None
    low, high = SIZES[group.size]
    return bool(things) and all(low - slack < thing.extent < high + slack for thing in things)
