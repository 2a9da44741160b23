"""Axes, points with their intervals, and ticks at round numbers."""

from collections.abc import Sequence
from typing import Any


def draw_axes(axes: Any, title: str, label: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(label)


def draw_curve(axes: Any, points: Sequence[tuple[float | int, float, float, float]], color: str, name: str) -> None:
    """A point, and its interval as a bar, for each (x, y, low, high)."""
    x, y, low, high = zip(*points, strict=True)
    axes.plot(x, y, color=color, linewidth=1.6, marker="o", markersize=4.5, label=name)
    axes.vlines(x, low, high, color=color, linewidth=1.2)


def number_ticks(axis: Any) -> None:
    """Of a log axis: at 1, 2 and 5 times powers of ten, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
