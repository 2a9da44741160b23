"""Figures by matplotlib, which is an extra: what all of them look like, and what is said where it is missing."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffpo.core.refusal import Refusal

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
INSTALL = "pip install 'diffpo[figures]'"
PANEL = 5.0, 3.8  # inches
SMALL: Any = {"font.size": 8.5, "axes.titlesize": 9.5, "axes.edgecolor": "#888888", "grid.color": "#e4e4e4"}


def is_drawable() -> bool:
    return find_spec("matplotlib") is not None


def open_figure(panels: int, columns: int = 2) -> tuple[Any, list[Any]]:
    """A figure and its pairs of axes, row by row, without a window.

    Raises:
        Refusal: without matplotlib.
    """
    if not is_drawable():
        raise Refusal(f"Figures need matplotlib, which is not installed; {INSTALL}.")
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(columns, panels)
    rows = -(-panels // columns)
    with matplotlib.rc_context(SMALL):
        figure = Figure((PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
        axes = [figure.add_subplot(rows, columns, n + 1, axisbelow=True) for n in range(panels)]
    for pair in axes:
        pair.grid(True)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """As a PNG of the same bytes whenever it is drawn."""
    figure.savefig(path, dpi=100, format="png", metadata={"Software": None})
