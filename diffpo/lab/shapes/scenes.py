"""The tiny world: pictures of one colored shape on a plain background, and the captions that ask for them.

Everything the shipped pipeline (`assets/tiny-sd`) has ever seen comes from here, so that a whole alignment run, its
data and its judgement fit on a laptop. A scene has four attributes that captions state (color, shape, background,
position), one that they state sometimes (size), and two continuous ones that they leave open (extent, vividness).
"""

import colorsys
from dataclasses import dataclass, fields

import numpy as np
from PIL import Image

from diffpo.core.refusal import Refusal

RESOLUTION = 32
HUES = {"red": 0, "yellow": 52, "green": 125, "cyan": 185, "blue": 230, "pink": 315}
BACKGROUNDS = {
    "white": (0.95, 0.95, 0.95),
    "gray": (0.55, 0.55, 0.55),
    "black": (0.06, 0.06, 0.06),
    "navy": (0.08, 0.10, 0.36),
    "brown": (0.36, 0.22, 0.12),
}
POSITIONS = {"left": (0.3, 0.5), "right": (0.7, 0.5), "top": (0.5, 0.3), "bottom": (0.5, 0.7), "center": (0.5, 0.5)}
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = {"small": (0.15, 0.18), "large": (0.24, 0.27)}
EXTENT = (0.15, 0.27)
VIVIDNESS = (0.45, 1.0)


@dataclass(frozen=True)
class Attributes:
    """What a caption states; None where it says nothing."""

    color: str | None = None
    shape: str | None = None
    background: str | None = None
    position: str | None = None
    size: str | None = None

    def stated(self) -> dict[str, str]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Scene:
    """One picture before it is drawn.

    Attributes:
        center: (x, y) of the object as fractions of the picture, y pointing down.
        extent: half the side of the object's bounding box, as a fraction of the picture.
        vividness: saturation of the object's color, in [0, 1].
        lightness: value (of HSV) of the object's color, in [0, 1].
        tint: offset added to the background color.
    """

    attributes: Attributes
    center: tuple[float, float]
    extent: float
    vividness: float
    lightness: float = 0.95
    tint: float = 0.0


def random_attributes(rng: np.random.Generator, sized: float = 1 / 3) -> Attributes:
    """Attributes drawn uniformly; a size is stated with probability `sized`."""
    options = (tuple(HUES), SHAPES, tuple(BACKGROUNDS), tuple(POSITIONS))
    color, shape, background, position = (names[rng.integers(len(names))] for names in options)
    size = tuple(SIZES)[rng.integers(len(SIZES))] if rng.random() < sized else None
    return Attributes(color, shape, background, position, size)


def random_scene(attributes: Attributes, rng: np.random.Generator) -> Scene:
    """A scene with the given attributes; whatever they leave open varies."""
    assert attributes.position is not None
    x, y = POSITIONS[attributes.position]
    low, high = SIZES[attributes.size] if attributes.size else EXTENT
    return Scene(
        attributes,
        center=(x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03)),
        extent=rng.uniform(low, high),
        vividness=rng.uniform(*VIVIDNESS),
        lightness=rng.uniform(0.9, 1.0),
        tint=rng.uniform(-0.03, 0.03),
    )


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the outline of a shape whose bounding box is [-1, 1] x [-1, 1]; negative inside."""
    match shape:
        case "circle":
            return np.hypot(x, y) - 1
        case "square":
            return np.maximum(abs(x), abs(y)) - 1
        case "triangle":
            return np.maximum(y - 1, (2 * abs(x) - y - 1) / np.sqrt(5))
        case "cross":
            upright = np.maximum(abs(x) - 1 / 3, abs(y) - 1)
            return np.minimum(upright, np.maximum(abs(y) - 1 / 3, abs(x) - 1))
    raise Refusal(f"Unknown shape {shape!r}; the tiny world has {', '.join(SHAPES)}.")


def object_color(name: str, vividness: float, lightness: float = 0.95) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(HUES[name] / 360, vividness, lightness))


def render(scene: Scene, resolution: int = RESOLUTION) -> Image.Image:
    """Draw a scene, antialiased, as an RGB picture of `resolution` x `resolution` pixels."""
    wanted = scene.attributes
    assert wanted.color is not None
    assert wanted.shape is not None
    assert wanted.background is not None
    axis = (np.arange(resolution) + 0.5) / resolution
    x, y = (axis[None, :] - scene.center[0]) / scene.extent, (axis[:, None] - scene.center[1]) / scene.extent
    distance = signed_distance(wanted.shape, x, y) * scene.extent * resolution
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    behind = np.array(BACKGROUNDS[wanted.background]) + scene.tint
    picture = cover * object_color(wanted.color, scene.vividness, scene.lightness) + (1 - cover) * behind
    return Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))
