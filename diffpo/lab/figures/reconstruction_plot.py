"""Curves of reconstruction errors on log axes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from diffpo.lab.figures.panels import BOTTOM, COLORS, HEIGHT, LEFT, TWICE, WIDTH, Log, Panel, reduced

Curves = Mapping[str, Sequence[Mapping[str, Any]]]


def plot(curves: Curves, path: Path) -> None:
    """Error against steps of the walk, and against calls of the network, side by side."""
    picture = Image.new("RGB", (TWICE * 2 * WIDTH, TWICE * HEIGHT), "white")
    draw, rows = ImageDraw.Draw(picture), [row for curve in curves.values() for row in curve]
    errors = Log(min(row["low"] for row in rows) / 1.3, max(row["high"] for row in rows) * 1.3)
    panels = (("steps", "steps of inversion"), ("calls", "network calls for inversion"))
    for place, (key, label) in enumerate(panels):
        numbers = [row[key] for row in rows]
        panel = Panel(draw, place * WIDTH, Log(min(numbers) / 1.2, max(numbers) * 1.2), errors)
        panel.axes("error of the reconstruction / size of the latents (RMS)", label)
        for (name, curve), color in zip(curves.items(), COLORS, strict=False):
            panel.curve([(row[key], row["error"], row["low"], row["high"]) for row in curve], color)
            if place == 0:
                panel.text(
                    LEFT + 10, HEIGHT - BOTTOM - 12 - 16 * list(curves)[::-1].index(name), name, "lm", 12, color
                )
    reduced(picture).save(path, optimize=True)
