"""Curves on log axes, drawn with Pillow alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

COLORS = ("#222222", "#0072b2", "#cc79a7", "#d55e00", "#009e73")
WIDTH, HEIGHT, TWICE = 500, 380, 2  # of a panel; drawn twice as large and reduced, for smooth lines
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 34, 46
Curves = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, eq=False)
class Panel:
    """One pair of log axes.

    Attributes:
        left: where the panel begins in the whole picture.
        x, y: ranges of the numbers.
    """

    draw: ImageDraw.ImageDraw
    left: int
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = math.log(x / self.x[0]) / math.log(self.x[1] / self.x[0])
        up = math.log(y / self.y[0]) / math.log(self.y[1] / self.y[0])
        wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return TWICE * (self.left + LEFT + across * wide), TWICE * (TOP + (1 - up) * high)

    def text(self, x: float, y: float, text: str, anchor: str, size: int = 12, fill: str = "#222222") -> None:
        """At pixels of the panel."""
        font = ImageFont.load_default(TWICE * size)
        self.draw.text((TWICE * (self.left + x), TWICE * y), text, fill, font, anchor)

    def line(self, ends: Sequence[tuple[float, float]], fill: str, width: float) -> None:
        self.draw.line([self.at(*end) for end in ends], fill, round(TWICE * width))

    def axes(self, title: str, label: str) -> None:
        for tick in ticks(*self.x):
            self.line([(tick, self.y[0]), (tick, self.y[1])], "#e4e4e4", 1)
            self.text(self.at(tick, 1)[0] / TWICE - self.left, HEIGHT - BOTTOM + 5, f"{tick:g}", "mt")
        for tick in ticks(*self.y):
            self.line([(self.x[0], tick), (self.x[1], tick)], "#e4e4e4", 1)
            self.text(LEFT - 6, self.at(1, tick)[1] / TWICE, f"{tick:g}", "rm")
        self.draw.rectangle([self.at(self.x[0], self.y[1]), self.at(self.x[1], self.y[0])], None, "#888888", TWICE)
        self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, label, "mb")
        self.text((LEFT + WIDTH - RIGHT) / 2, 20, title, "mm", 13)

    def curve(self, rows: Sequence[Mapping[str, Any]], key: str, color: str) -> None:
        """A point, and its interval as a bar, for each row."""
        self.line([(row[key], row["error"]) for row in rows], color, 2)
        for row in rows:
            self.line([(row[key], row["low"]), (row[key], row["high"])], color, 1.5)
            x, y = self.at(row[key], row["error"])
            self.draw.ellipse([x - 3 * TWICE, y - 3 * TWICE, x + 3 * TWICE, y + 3 * TWICE], color)


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in powers for digit in (1, 2, 5) if low <= (tick := digit * 10.0**power) <= high]


def plot(curves: Curves, path: Path) -> None:
    """Error against steps of the walk, and against calls of the network, side by side."""
    picture = Image.new("RGB", (TWICE * 2 * WIDTH, TWICE * HEIGHT), "white")
    draw, rows = ImageDraw.Draw(picture), [row for curve in curves.values() for row in curve]
    errors = min(row["low"] for row in rows) / 1.3, max(row["high"] for row in rows) * 1.3
    panels = (("steps", "steps of inversion"), ("calls", "network calls for inversion"))
    for place, (key, label) in enumerate(panels):
        numbers = [row[key] for row in rows]
        panel = Panel(draw, place * WIDTH, (min(numbers) / 1.2, max(numbers) * 1.2), errors)
        panel.axes("error of the reconstruction / size of the latents (RMS)", label)
        for (name, curve), color in zip(curves.items(), COLORS, strict=True):
            panel.curve(curve, key, color)
            if place == 0:
                panel.text(
                    LEFT + 10, HEIGHT - BOTTOM - 12 - 16 * list(curves)[::-1].index(name), name, "lm", 12, color
                )
    picture.resize((2 * WIDTH, HEIGHT), Image.Resampling.LANCZOS).quantize(256).save(path, optimize=True)
