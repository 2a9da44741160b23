"""Plot quality against guidance scale from the report of an evaluation with a sweep.

python scripts/figures.py guidance --report runs/negative/contest/report.json --output assets/guidance.png
"""

import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from diffpo.core.refusal import Refusal
from diffpo.lab.figures.panels import COLORS, HEIGHT, LEFT, TWICE, WIDTH, Linear, Log, Panel, reduced

SEED = re.compile(r"-\d+$")
LINE = 16  # of the legend


def main(
    report: Path, output: Path, scorer: str | None = None, floor: float | None = None, settings: str = ""
) -> None:
    """Plot quality against guidance scale from the report of an evaluation with a sweep.

    Args:
        report: `report.json` of scripts/evaluate.py.
        output: a .png; models whose names differ in a number at the end (`-0`, `-1`, their seeds) are one curve, their
            mean, with bars from the lowest to the highest.
        scorer: null is the one that chose the scales.
        floor: what lies below is drawn at this height; null draws all.
        settings: the resolved config.
    """
    sweep = json.loads(report.read_text())["guidance_sweep"]
    if sweep is None:
        raise Refusal(f"{report} tells of no sweep; set sweep in the config of scripts/evaluate.py.")
    curves = by_method(sweep["curves"], scorer or sweep["metric"])
    if floor is not None:
        curves = {
            name: [(x, max(a, floor), max(b, floor), max(c, floor)) for x, a, b, c in curve]
            for name, curve in curves.items()
        }
    plot(curves, f"{scorer or sweep['metric']}, mean over {sweep['n_prompts']} development prompts", output)
    print(f"{output}: {len(curves)} curves")


def by_method(curves: dict, scorer: str) -> dict[str, list[tuple[float, float, float, float]]]:
    """(scale, mean, lowest, highest) of each method, seeds together; of one seed alone, its interval."""
    runs = defaultdict(list)
    for name, of_model in curves.items():
        runs[SEED.sub("", name)].append(of_model[scorer])
    found = {}
    for name, seeds in runs.items():
        means = np.array([[point["mean"] for point in curve] for curve in seeds])
        low, high = means.min(0), means.max(0)
        if len(seeds) == 1:
            low, high = (np.array([point[end] for point in seeds[0]]) for end in ("low", "high"))
        scales = [point["scale"] for point in seeds[0]]
        found[name] = list(zip(scales, means.mean(0).tolist(), low.tolist(), high.tolist(), strict=True))
    return found


def plot(curves: dict[str, list[tuple[float, float, float, float]]], title: str, path: Path) -> None:
    """Curves on the left, their names on the right."""
    picture = Image.new("RGB", (TWICE * (WIDTH + 220), TWICE * HEIGHT), "white")
    points = [point for curve in curves.values() for point in curve]
    margin = 0.05 * (max(p[3] for p in points) - min(p[2] for p in points))
    y = Linear(min(p[2] for p in points) - margin, max(p[3] for p in points) + margin)
    x = Log(min(p[0] for p in points) / 1.1, max(p[0] for p in points) * 1.1)
    panel = Panel(ImageDraw.Draw(picture), 0, x, y)
    panel.axes(title, "guidance scale")
    for place, (name, curve) in enumerate(curves.items()):
        color = COLORS[place % len(COLORS)]
        panel.curve(curve, color)
        panel.text(WIDTH + LEFT // 4, 50 + LINE * place, name, "lm", 12, color)
    reduced(picture).save(path, optimize=True)
