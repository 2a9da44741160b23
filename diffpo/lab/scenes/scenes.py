"""Scenes of one or two coloured shapes: what a caption can state, and how it is drawn.

A world with headroom: a base learns to draw clean objects, and goes on to misread which colour belongs to which shape,
how many there are, how they stand to each other and how large they are.
"""

import colorsys
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from PIL import Image

RESOLUTION = 48
HUES = {"red": 0, "yellow": 52, "green": 125, "cyan": 185, "blue": 230, "pink": 315}
SHAPES = ("circle", "square", "triangle", "cross")
BACKGROUNDS = {
    "white": (0.95, 0.95, 0.95),
    "gray": (0.55, 0.55, 0.55),
    "black": (0.06, 0.06, 0.06),
    "brown": (0.36, 0.22, 0.12),
}
SIZES = {"small": (0.13, 0.16), "large": (0.2, 0.23)}
EXTENT = (0.13, 0.23)
VIVIDNESS = (0.5, 1.0)
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
COUNTS = {(1,): 0.2, (2,): 0.2, (1, 1): 0.6}
RELATED, SIZED = 0.75, 0.25  # how often two kinds have a stated relation, and a kind a stated size
GAP = 0.055  # between bounding boxes, as a fraction of the picture: the oracle needs it to tell objects apart
MARGIN = 0.03  # between a bounding box and the border
PARTS = {"training": range(10), "evaluation": range(10, 11), "development": range(11, 12)}


@dataclass(frozen=True)
class Objects:
    """Some objects of one kind, as a caption names them."""

    color: str
    shape: str
    count: int = 1
    size: str | None = None

    @property
    def kind(self) -> tuple[str, str]:
        return self.color, self.shape


@dataclass(frozen=True)
class Facts:
    """What a caption states: groups of different kinds, how the first stands to the second, what is behind them."""

    groups: tuple[Objects, ...]
    relation: str | None = None
    background: str | None = None

    @property
    def number(self) -> int:
        return sum(group.count for group in self.groups)

    @property
    def part(self) -> str:
        """Which part of the world a scene belongs to, whatever its order, relation and sizes."""
        named = repr((sorted((group.kind, group.count) for group in self.groups), self.background))
        return next(part for part, marks in PARTS.items() if crc32(named.encode()) % 12 in marks)


@dataclass(frozen=True)
class Thing:
    """One drawn object.

    Attributes:
        x, y: centre of its bounding box as fractions of the picture, y pointing down.
        extent: half the side of its bounding box, as a fraction of the picture.
        vividness: saturation of its colour, in [0, 1].
    """

    color: str
    shape: str
    x: float
    y: float
    extent: float
    vividness: float = 1.0

    @property
    def kind(self) -> tuple[str, str]:
        return self.color, self.shape


def random_facts(rng: np.random.Generator, part: str) -> Facts:
    """A scene of one part of the world, background always stated."""
    while True:
        counts = list(COUNTS)[rng.choice(len(COUNTS), p=list(COUNTS.values()))]
        kinds = rng.choice(len(HUES) * len(SHAPES), size=len(counts), replace=False)
        groups = tuple(
            Objects(tuple(HUES)[kind // len(SHAPES)], SHAPES[kind % len(SHAPES)], count, random_size(rng))
            for kind, count in zip(kinds, counts, strict=True)
        )
        relation = tuple(RELATIONS)[rng.integers(4)] if len(counts) == 2 and rng.random() < RELATED else None
        facts = Facts(groups, relation, tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))])
        if facts.part == part:
            return facts


def random_size(rng: np.random.Generator) -> str | None:
    return tuple(SIZES)[rng.integers(len(SIZES))] if rng.random() < SIZED else None


def holds(relation: str, first: Thing, second: Thing, margin: float = 1.0) -> bool:
    """Whether `first` stands so to `second`: the offset along the other axis has to be `margin` times smaller."""
    (dx, dy), x, y = RELATIONS[relation], first.x - second.x, first.y - second.y
    return dx * x + dy * y > margin * abs(dy * x + dx * y)


def random_things(facts: Facts, rng: np.random.Generator) -> list[Thing]:
    """Objects at random, apart from each other, the stated relation clear to see; what is open varies."""
    groups = [group for group in facts.groups for _ in range(group.count)]
    while True:
        extents = [rng.uniform(*(SIZES[group.size] if group.size else EXTENT)) for group in groups]
        places = [rng.uniform(extent + MARGIN, 1 - MARGIN - extent, size=2).tolist() for extent in extents]
        things = [
            Thing(group.color, group.shape, x, y, extent, rng.uniform(*VIVIDNESS))
            for group, (x, y), extent in zip(groups, places, extents, strict=True)
        ]
        if all(apart(a, b) for i, a in enumerate(things) for b in things[:i]) and (
            not facts.relation or holds(facts.relation, things[0], things[1], 1.5)
        ):
            return things


def apart(a: Thing, b: Thing) -> bool:
    return max(abs(a.x - b.x), abs(a.y - b.y)) > a.extent + b.extent + GAP


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the outline of a shape whose bounding box is [-1, 1] x [-1, 1]; negative inside."""
    bars = np.maximum(abs(x) - 1 / 3, abs(y) - 1), np.maximum(abs(y) - 1 / 3, abs(x) - 1)
    return {
        "circle": np.hypot(x, y) - 1,
        "square": np.maximum(abs(x), abs(y)) - 1,
        "triangle": np.maximum(y - 1, (2 * abs(x) - y - 1) / np.sqrt(5)),
        "cross": np.minimum(*bars),
    }[shape]


def render(things: list[Thing], background: str, tint: float = 0.0, resolution: int = RESOLUTION) -> Image.Image:
    """Draw objects, antialiased, as an RGB picture of `resolution` x `resolution` pixels.

    Args:
        tint: added to the colour of the background.
    """
    axis = (np.arange(resolution) + 0.5) / resolution
    picture = np.ones((resolution, resolution, 3)) * BACKGROUNDS[background] + tint
    for thing in things:
        x, y = (axis[None] - thing.x) / thing.extent, (axis[:, None] - thing.y) / thing.extent
        cover = np.clip(0.5 - signed_distance(thing.shape, x, y) * thing.extent * resolution, 0, 1)[..., None]
        color = np.array(colorsys.hsv_to_rgb(HUES[thing.color] / 360, thing.vividness, 0.95))
        picture = cover * color + (1 - cover) * picture
    return Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))


def draw_scene(facts: Facts, rng: np.random.Generator) -> Image.Image:
    """A picture of a scene; what its facts leave open varies."""
    assert facts.background is not None
    return render(random_things(facts, rng), facts.background, rng.uniform(-0.03, 0.03))
