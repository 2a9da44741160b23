"""What a run has logged, as curves to look at."""

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from diffpo.storage.files import tell_failed_writes
from diffpo.train.report.figure import COLORS, INSTALL, is_drawable, open_figure, save_figure
from diffpo.train.run import METRICS

log = logging.getLogger(__name__)

CURVES = "curves.png"
HELD_OUT = "validation/"
LENGTH = "length/correlation"  # made of moments that are logged, see `correlate`
FEW = 30  # points, which are then marked

TITLE = 40  # characters of a line above a panel: more would reach into the next one


@dataclass(frozen=True)
class CurvePanel:
    """Metrics that belong to one pair of axes.

    Attributes:
        names: of the metrics, with what the legend says; those that a run has not logged are left out.
        level: what is drawn across, because it means something.
    """

    title: str
    names: dict[str, str]
    level: float | None = None


PANELS = (
    CurvePanel("loss", {"loss": "loss"}),
    CurvePanel("implicit accuracy", {"rewards/accuracies": "accuracy"}, 0.5),
    CurvePanel("margin: reward of the chosen side minus the other's", {"rewards/margins": "margin"}, 0.0),
    CurvePanel(
        "error over the reference's: above 0 the side is drawn worse than before",
        {"mse/chosen_minus_reference": "chosen", "mse/rejected_minus_reference": "rejected"},
        0.0,
    ),
    CurvePanel(
        "reward: log-likelihood over the reference's",
        {"rewards/chosen": "chosen", "rewards/rejected": "rejected"},
        0.0,
    ),
    CurvePanel("correlation of margin and difference in length: 0 is no length bias", {LENGTH: "correlation"}, 0.0),
    CurvePanel(
        "capability loss: error on ordinary text over the base's, nats a token",
        {f"{HELD_OUT}capability/loss": "capability loss"},
        0.0,
    ),
    CurvePanel(
        "shift: own answers' log-likelihood over the reference's, nats a token",
        {f"{HELD_OUT}shift": "shift"},
        0.0,
    ),
    CurvePanel("log-likelihood of the texts", {"logps/chosen": "chosen", "logps/rejected": "rejected"}),
)

Points = list[tuple[int, float]]


def draw_curves(folder: Path) -> str:
    """Write `curves.png` of the metrics in a run's folder; returns what is to be said of it.

    That matplotlib is missing, or the file cannot be written, is only told: the run is done.
    """
    curves = correlate(read_curves(folder / METRICS))
    found = [panel for panel in PANELS if any(name in curves for name in panel.names)]
    if not found:
        return ""
    if not is_drawable():
        return f"{CURVES} is not drawn, as matplotlib is not installed; {INSTALL}."
    figure, axes = open_figure(len(found))
    for panel, pair in zip(found, axes, strict=True):
        pair.set_title(fill(panel.title, TITLE))
        pair.set_xlabel("step")
        if panel.level is not None:
            pair.axhline(panel.level, color="#888888", linewidth=1)
        for n, (label, points, is_held_out) in enumerate(curves_of(panel, curves)):
            pair.plot(
                *zip(*points, strict=True),
                color=COLORS[n + 1],
                linestyle="--" if is_held_out else "-",
                marker="." if len(points) < FEW else "",
                label=label,
            )
        pair.legend(frameon=False)
    with tell_failed_writes(f"{folder / CURVES}"):
        save_figure(figure, folder / CURVES)
    return ""


def curves_of(panel: CurvePanel, curves: dict[str, Points]) -> Iterator[tuple[str, Points, bool]]:
    """What there is for a panel: label, points, and whether it is of held-out pairs."""
    for name, label in panel.names.items():
        for prefix, of in (("", ""), (HELD_OUT, ", held-out pairs")):
            if points := curves.get(prefix + name):
                yield label + of, points, bool(prefix)


def correlate(curves: dict[str, Points]) -> dict[str, Points]:
    """The same with the uncentred correlation of margin and difference in length; 0 where one does not vary."""
    found = dict(curves)
    for prefix in ("", HELD_OUT):
        parts = ("margin_by_difference", "margin_square", "difference_square")
        moments = [curves.get(f"{prefix}length/{part}", []) for part in parts]
        found[prefix + LENGTH] = [
            (step, both / math.sqrt(margin * longer) if margin * longer else 0.0)
            for (step, both), (_, margin), (_, longer) in zip(*moments, strict=True)
        ]
    return {name: points for name, points in found.items() if points}


def read_curves(file: Path) -> dict[str, Points]:
    """Steps and values of each metric; of steps that a resumed run has repeated, the last value."""
    found: dict[str, dict[int, float]] = {}
    for number, line in enumerate(file.read_text().splitlines() if file.exists() else [], start=1):
        try:
            read = json.loads(line)
        except ValueError:  # a kill has cut it
            log.warning(f"Line {number} of {file} cannot be read and is left out of the curves.")
            continue
        for name, value in read.items():
            if name != "step":
                found.setdefault(name, {})[read["step"]] = value
    return {name: sorted(values.items()) for name, values in found.items()}
