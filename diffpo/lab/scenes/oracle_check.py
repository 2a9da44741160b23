"""The scenes' oracle put to the test: pictures that are hard to read, and where it agrees with a person's eyes."""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from diffpo.lab.scenes.captions import plain, read_caption
from diffpo.lab.scenes.oracle import SeenScene, measure
from diffpo.lab.scenes.reading import draw_prompts
from diffpo.lab.scenes.scenes import BACKGROUNDS, RESOLUTION, Facts, Thing, holds, random_facts, random_things, render
from diffpo.lab.shapes.oracle_check import with_noise

COUNTS = {"generated": 120, "hurried": 60, "blurred": 45, "noisy": 45, "merged": 30}


@dataclass(frozen=True)
class Label:
    """What a person sees in a picture: clean objects, how two of them stand, and what is behind; or None."""

    kind: str
    seen: Facts | None


def hard_pictures(pipe: Any, seed: int = 0) -> tuple[list[str], list[Image.Image]]:
    """300 pictures in mixed order, and the kind of each (COUNTS).

    Samples of a base at 25 steps and at only 2 to 6 ("hurried"), blurred ones, noisy ones and noise, and objects that
    touch or cover each other.
    """
    rng = np.random.default_rng(seed)

    def samples(n: int, steps: int) -> list[Image.Image]:
        prompts = [plain(random_facts(rng, "development")) for _ in range(n)]
        return draw_prompts(pipe, prompts, [int(s) for s in rng.integers(2**31, size=n)], steps, 2.5)

    gray = Image.new("RGB", (RESOLUTION, RESOLUTION), "gray")
    made = {
        "generated": samples(COUNTS["generated"], 25),
        "hurried": [picture for steps in (2, 4, 6) for picture in samples(COUNTS["hurried"] // 3, steps)],
        "blurred": [p.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 3))) for p in samples(COUNTS["blurred"], 25)],
        "noisy": [with_noise(p, rng.uniform(0.03, 0.3), rng) for p in samples(COUNTS["noisy"] - 10, 25)]
        + [with_noise(gray, 0.3, rng) for _ in range(10)],
        "merged": [merge_objects(rng) for _ in range(COUNTS["merged"])],
    }
    kinds = [kind for kind, pictures in made.items() for _ in pictures]
    pictures = [picture for group in made.values() for picture in group]
    order = rng.permutation(len(pictures))
    return [kinds[i] for i in order], [pictures[i] for i in order]


def merge_objects(rng: np.random.Generator) -> Image.Image:
    """Two objects that touch or cover each other."""
    first, second = (random_things(random_facts(rng, "development"), rng)[0] for _ in range(2))
    step = rng.choice([-1, 1], size=2) * rng.uniform(0.2, 0.8, size=2) * (first.extent + second.extent)
    x, y = np.clip(np.add((first.x, first.y), step), second.extent, 1 - second.extent).tolist()
    other = Thing(second.color, second.shape, x, y, second.extent, second.vividness)
    return render([first, other], tuple(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))])


def read_labels(file: Path) -> list[Label]:
    """Labels made by looking: a csv with `kind` and `seen`, a caption; no caption means no clean objects."""
    with file.open() as lines:
        return [
            Label(row["kind"], read_caption(row["seen"]) if row["seen"] else None) for row in csv.DictReader(lines)
        ]


def count_agreeing(seen: SeenScene, facts: Facts) -> tuple[int, int]:
    """How many facts that a person saw the oracle reads alike, and how many there are."""
    things = Counter(thing.kind for thing in seen.things)
    alike = [things[group.kind] == group.count for group in facts.groups]
    alike += [sum(things.values()) == facts.number, seen.background == facts.background]
    if facts.relation:
        pair = [next((thing for thing in seen.things if thing.kind == group.kind), None) for group in facts.groups]
        alike.append(all(pair) and holds(facts.relation, *pair))  # type: ignore[arg-type]
    return sum(alike), len(alike)


def tabulate_confusion(labels: list[Label], pictures: list[Image.Image]) -> str:
    """By kind of picture: what the oracle finds clean, and how many facts it then reads as the person does."""
    lines = [
        "| pictures | number | both find it clean | only the person | only the oracle | neither | facts agree |",
        "|---|---|---|---|---|---|---|",
    ]
    measured = [measure(picture) for picture in pictures]
    for kind in (*dict.fromkeys(label.kind for label in labels), "all"):
        some = [(label, seen) for label, seen in zip(labels, measured, strict=True) if kind in (label.kind, "all")]
        counts = [
            sum((label.seen is not None) == person and seen.clean == oracle for label, seen in some)
            for person, oracle in ((True, True), (True, False), (False, True), (False, False))
        ]
        agreed = [count_agreeing(seen, label.seen) for label, seen in some if label.seen and seen.clean]
        right, stated = (sum(numbers) for numbers in zip(*agreed, strict=True)) if agreed else (0, 0)
        shown = f"{right} of {stated}" if stated else ""
        lines.append(f"| {kind} | {len(some)} | {' | '.join(map(str, counts))} | {shown} |")
    return "\n".join(lines)
