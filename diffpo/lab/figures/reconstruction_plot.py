"""Curves of reconstruction errors on log axes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffpo.lab.figures.panels import draw_axes, draw_curve, number_ticks
from diffpo.train.report.figure import COLORS, open_figure, save_figure

Curves = Mapping[str, Sequence[Mapping[str, Any]]]
PANELS = {"steps": "steps of inversion", "calls": "network calls for inversion"}


def plot_reconstruction(curves: Curves, path: Path) -> None:
    """Error against steps of the walk, and against calls of the network, side by side."""
    figure, panels = open_figure(len(PANELS))
    for axes, (key, label) in zip(panels, PANELS.items(), strict=True):
        draw_axes(axes, "error of the reconstruction / size of the latents (RMS)", label)
        axes.set(xscale="log", yscale="log")
        for (name, curve), color in zip(curves.items(), COLORS, strict=False):
            draw_curve(axes, [(row[key], row["error"], row["low"], row["high"]) for row in curve], color, name)
        number_ticks(axes.xaxis)
        number_ticks(axes.yaxis)
    panels[0].legend(loc="lower left", frameon=False, labelcolor="linecolor")
    save_figure(figure, path)
