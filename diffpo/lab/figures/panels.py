"""Panels with axes, points and curves, drawn with Pillow alone."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

COLORS = (
    "#222222",
    "#0072b2",
    "#cc79a7",
    "#d55e00",
    "#009e73",
    "#e69f00",
    "#56b4e9",
    "#8c564b",
    "#7f7f7f",
    "#b5bd00",
)
WIDTH, HEIGHT, TWICE = 500, 380, 2  # of a panel; drawn twice as large and reduced, for smooth lines
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 34, 46


@dataclass(frozen=True)
class Axis(ABC):
    """A range of numbers on a side of a panel."""

    low: float | int
    high: float | int

    @abstractmethod
    def place(self, number: float | int) -> float:
        """0 at the low end, 1 at the high one."""

    @abstractmethod
    def ticks(self) -> list[float]: ...


@dataclass(frozen=True)
class Log(Axis):
    """Ticks at 1, 2 and 5 times powers of ten."""

    def place(self, number: float | int) -> float:
        return math.log(number / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        return [
            tick for power in powers for digit in (1, 2, 5) if self.low <= (tick := digit * 10.0**power) <= self.high
        ]


@dataclass(frozen=True)
class Linear(Axis):
    """About five ticks, 1, 2 or 5 times a power of ten apart."""

    def place(self, number: float | int) -> float:
        return (number - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        apart = min((digit * power for digit in (1, 2, 5, 10)), key=lambda step: abs(step - rough))
        first = math.ceil(self.low / apart)
        return [round(n * apart, 10) for n in range(first, math.floor(self.high / apart) + 1)]


@dataclass(frozen=True, eq=False)
class Panel:
    """One pair of axes.

    Attributes:
        left: where the panel begins in the whole picture.
    """

    draw: ImageDraw.ImageDraw
    left: int
    x: Axis
    y: Axis

    def at(self, x: float | int, y: float | int) -> tuple[float, float]:
        wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return TWICE * (self.left + LEFT + self.x.place(x) * wide), TWICE * (TOP + (1 - self.y.place(y)) * high)

    def text(
        self, x: float | int, y: float | int, text: str, anchor: str, size: int = 12, fill: str = "#222222"
    ) -> None:
        """At pixels of the panel."""
        font = ImageFont.load_default(TWICE * size)
        self.draw.text((TWICE * (self.left + x), TWICE * y), text, fill, font, anchor)

    def line(self, ends: Sequence[tuple[float, float]], fill: str, width: float | int) -> None:
        self.draw.line([self.at(*end) for end in ends], fill, round(TWICE * width))

    def axes(self, title: str, label: str) -> None:
        for tick in self.x.ticks():
            self.line([(tick, self.y.low), (tick, self.y.high)], "#e4e4e4", 1)
            self.text(self.at(tick, self.y.low)[0] / TWICE - self.left, HEIGHT - BOTTOM + 5, f"{tick:g}", "mt")
        for tick in self.y.ticks():
            self.line([(self.x.low, tick), (self.x.high, tick)], "#e4e4e4", 1)
            self.text(LEFT - 6, self.at(self.x.low, tick)[1] / TWICE, f"{tick:g}", "rm")
        self.draw.rectangle(
            [self.at(self.x.low, self.y.high), self.at(self.x.high, self.y.low)], None, "#888888", TWICE
        )
        self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, label, "mb")
        self.text((LEFT + WIDTH - RIGHT) / 2, 20, title, "mm", 13)

    def curve(self, points: Sequence[tuple[float, float, float, float]], color: str) -> None:
        """A point, and its interval as a bar, for each (x, y, low, high)."""
        self.line([(x, y) for x, y, _, _ in points], color, 2)
        for x, y, low, high in points:
            self.line([(x, low), (x, high)], color, 1.5)
            right, down = self.at(x, y)
            self.draw.ellipse([right - 3 * TWICE, down - 3 * TWICE, right + 3 * TWICE, down + 3 * TWICE], color)


def reduced(picture: Image.Image) -> Image.Image:
    """A picture that was drawn twice as large, in few colors."""
    size = picture.width // TWICE, picture.height // TWICE
    return picture.resize(size, Image.Resampling.LANCZOS).quantize(256)
