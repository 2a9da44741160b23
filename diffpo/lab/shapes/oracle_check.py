"""The oracle put to the test: pictures that are hard to judge, and a table of where it agrees with a person's eyes."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from diffusers import StableDiffusionPipeline
from diffusers.utils import make_image_grid
from PIL import Image, ImageFilter

from diffpo.diffusion.model.sampling import generate_pictures
from diffpo.lab.shapes.captions import plain
from diffpo.lab.shapes.oracle import measure
from diffpo.lab.shapes.scenes import RESOLUTION, Attributes, random_attributes, random_scene, render

COLUMNS = 20
COUNTS = {"generated": 60, "hurried": 40, "blurred": 40, "noisy": 35, "two objects": 25}
LABELLED = ("color", "shape", "background", "position")


@dataclass(frozen=True)
class Label:
    """What a person sees in a picture: one clean object and its attributes, or none (`seen` is None)."""

    kind: str
    seen: Attributes | None


def hard_pictures(pipeline: StableDiffusionPipeline, seed: int = 0) -> tuple[list[str], list[Image.Image]]:
    """200 pictures in mixed order, and the kind of each (COUNTS).

    Samples of the pipeline at 25 steps and at only 2 to 5 ("hurried"), blurred ones, ones with Gaussian noise on them
    or nothing but noise, and pictures of two objects.
    """
    rng = np.random.default_rng(seed)

    def samples(n: int, steps: int, guidance: float) -> list[Image.Image]:
        prompts = [plain(random_attributes(rng)) for _ in range(n)]
        return generate_pictures(pipeline, prompts, [int(s) for s in rng.integers(2**31, size=n)], steps, guidance)

    hurried = [p for steps in (2, 3, 4, 5) for p in samples(COUNTS["hurried"] // 4, steps, float(rng.uniform(1, 8)))]
    blurred = [p.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 4))) for p in samples(COUNTS["blurred"], 25, 2.5)]
    noisy = [with_noise(p, rng.uniform(0.03, 0.4), rng) for p in samples(COUNTS["noisy"] - 10, 25, 2.5)]
    noise = [with_noise(Image.new("RGB", (RESOLUTION, RESOLUTION), "gray"), 0.3, rng) for _ in range(10)]
    made = {
        "generated": samples(COUNTS["generated"], 25, 2.5),
        "hurried": hurried,
        "blurred": blurred,
        "noisy": noisy + noise,
        "two objects": [two_objects(rng) for _ in range(COUNTS["two objects"])],
    }
    kinds = [kind for kind, pictures in made.items() for _ in pictures]
    pictures = [picture for group in made.values() for picture in group]
    order = rng.permutation(len(pictures))
    return [kinds[i] for i in order], [pictures[i] for i in order]


def with_noise(picture: Image.Image, sigma: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture, dtype=np.float32) / 255
    noisy = pixels + sigma * rng.standard_normal(pixels.shape)
    return Image.fromarray((np.clip(noisy, 0, 1) * 255).astype(np.uint8))


def two_objects(rng: np.random.Generator) -> Image.Image:
    """Two objects on one background, which may touch or cover each other."""
    first = random_scene(random_attributes(rng), rng)
    other = random_scene(random_attributes(rng), rng)
    behind = replace(other.attributes, background=first.attributes.background)
    second = np.asarray(render(replace(other, attributes=behind, tint=first.tint)))
    lower = np.asarray(render(first))
    empty = second[0, 0]
    return Image.fromarray(np.where((second == empty).all(-1, keepdims=True), lower, second))


def tile_pictures(pictures: list[Image.Image]) -> Image.Image:
    """The pictures, at their own size and without loss, row by row."""
    return make_image_grid(pictures, rows=len(pictures) // COLUMNS, cols=COLUMNS)


def tiles(sheet: Image.Image, side: int = RESOLUTION) -> list[Image.Image]:
    """The pictures of a sheet, row by row."""
    corners = [(x, y) for y in range(0, sheet.height, side) for x in range(0, sheet.width, side)]
    return [sheet.crop((x, y, x + side, y + side)) for x, y in corners]


def read_labels(file: Path) -> list[Label]:
    """Labels made by looking: a csv with kind, color, shape, background, position; no color means no clean object."""
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    return [
        Label(row["kind"], Attributes(**{name: row[name] for name in LABELLED}) if row["color"] else None)
        for row in rows
    ]


def confusion(labels: list[Label], pictures: list[Image.Image]) -> str:
    """By kind of picture: whom the oracle lets pass, and how many attributes it then reads as the person does."""
    lines = [
        "| pictures | number | both see one object | only the person | only the oracle | neither | attributes agree |",
        "|---|---|---|---|---|---|---|",
    ]
    measured = [measure(picture) for picture in pictures]
    for kind in (*dict.fromkeys(label.kind for label in labels), "all"):
        some = [(a, m) for a, m in zip(labels, measured, strict=True) if kind in (a.kind, "all")]
        counts = [
            sum((label.seen is not None) == person and m.clean == oracle for label, m in some)
            for person, oracle in ((True, True), (True, False), (False, True), (False, False))
        ]
        agree = [m.right(label.seen) for label, m in some if label.seen is not None and m.clean]
        shown = f"{100 * np.mean(agree):.1f} %" if agree else ""
        lines.append(f"| {kind} | {len(some)} | {' | '.join(map(str, counts))} | {shown} |")
    return "\n".join(lines)
