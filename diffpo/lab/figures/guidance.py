"""Plot quality against guidance scale from the report of an evaluation with a sweep.

python scripts/figures.py guidance --report runs/negative/contest/report.json --output assets/guidance.png
"""

import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from diffpo.core.refusal import Refusal
from diffpo.lab.figures.panels import draw_axes, draw_curve, number_ticks
from diffpo.storage.digests import read_json
from diffpo.train.report.figure import COLORS, PANEL, open_figure, save_figure

SEED = re.compile(r"-\d+$")


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
    sweep = read_json(report)["guidance_sweep"]
    if sweep is None:
        raise Refusal(f"{report} tells of no sweep; set sweep in the config of scripts/evaluate.py.")
    curves = by_method(sweep["curves"], scorer or sweep["metric"])
    if floor is not None:
        curves = {
            name: [(x, max(a, floor), max(b, floor), max(c, floor)) for x, a, b, c in curve]
            for name, curve in curves.items()
        }
    plot_guidance(curves, f"{scorer or sweep['metric']}, mean over {sweep['n_prompts']} development prompts", output)
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


def plot_guidance(curves: dict[str, list[tuple[float, float, float, float]]], title: str, path: Path) -> None:
    """Curves on the left, their names on the right."""
    figure, [axes] = open_figure(1)
    figure.set_size_inches(PANEL[0] + 2.2, PANEL[1])
    draw_axes(axes, title, "guidance scale")
    axes.set_xscale("log")
    for place, (name, curve) in enumerate(curves.items()):
        draw_curve(axes, curve, COLORS[place % len(COLORS)], name)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, labelcolor="linecolor")
    number_ticks(axes.xaxis)
    save_figure(figure, path)
