"""What all pages of an evaluation share: verdicts, styles, numbers as they are shown. One file each; no network."""

import base64
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import pstdev
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from diffpo.evaluation.report import Report
from diffpo.train.report.curves import CURVES

PARTS = Path(__file__).parent / "page_files"
EXTRAS = ("attributes", "facts", "whole", "style", "clean")


def strict_json(text: str) -> Any:
    """Python writes NaN and Infinity, which no browser reads: here they are no number at all."""
    return json.loads(text, parse_constant=lambda _: None)


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [strict_json(line) for line in file.read_text("utf-8").split("\n") if line]


@dataclass(frozen=True)
class Against:
    """How the leader does against another model; a tie counts half.

    Attributes:
        low, high: ends of the interval; the comparison is decided if 50 % lies outside.
    """

    name: str
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class ScorerVerdict:
    """What one scorer says.

    Attributes:
        leader: model of the highest mean win rate against the others.
    """

    scorer: str
    leader: str
    others: list[Against]

    @property
    def beaten(self) -> list[Against]:
        return [other for other in self.others if other.low > 0.5]

    @property
    def undecided(self) -> list[Against]:
        return [other for other in self.others if other.low <= 0.5 <= other.high]

    @property
    def lost(self) -> list[Against]:
        return [other for other in self.others if other.high < 0.5]


def verdict(report: Report, scorer: str) -> ScorerVerdict:
    rates: dict[str, list[Against]] = {name: [] for name in report["models"]}
    for pair in report["pairs"]:
        if pair["metric"] == scorer:
            rate, low, high = pair["win_rate"], pair["win_rate_low"], pair["win_rate_high"]
            rates[pair["a"]].append(Against(pair["b"], rate, low, high))
            rates[pair["b"]].append(Against(pair["a"], 1 - rate, 1 - high, 1 - low))
    leader = max(rates, key=lambda name: sum(other.rate for other in rates[name]))
    return ScorerVerdict(scorer, leader, rates[leader])


def render_page(report: Report, output_dir: Path, page: str, parts: Sequence[Path] = (), **said: Any) -> str:
    """Fill a template; all text is escaped.

    Args:
        output_dir: whose curves of a training are shown, if there are any.
        page: name of the template.
        parts: folders where templates are looked for before those that all pages share.
        said: what else the template asks for.
    """
    template = Environment(
        loader=FileSystemLoader([*parts, PARTS]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template.filters |= {"percent": percent, "interval": show_interval, "fixed": fixed, "script": script}
    curves = output_dir / CURVES
    return template.get_template(page).render(
        report=report,
        verdicts=[verdict(report, scorer) for scorer in report["scorers"]],
        order={name: i for i, name in enumerate(report["models"])},
        extras=[name for name in EXTRAS if any(name in entry for entry in report["models"].values())],
        css=Markup((PARTS / "page.css").read_text("utf-8")),
        curves=data_url("png", curves.read_bytes()) if curves.exists() else None,
        **said,
    )


def percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{fraction:.1%}".replace("%", "\u00a0%")


def show_interval(other: Against) -> str:
    return f"[{100 * other.low:.1f}, {100 * other.high:.1f}]"


def fixed(number: float | None, decimals: int) -> str:
    return "–" if number is None else f"{number:.{decimals}f}".replace("-", "\u2212")


def script(tree: Any) -> Markup:
    """JSON inside of a script element, which no text can end."""
    return Markup(json.dumps(tree, allow_nan=False).replace("<", "\\u003c"))


def decimals(numbers: Iterable[float | None]) -> int:
    """As many as show three digits of the standard deviation."""
    spread = pstdev([number for number in numbers if number is not None] or [0])
    return min(6, max(0, 2 - math.floor(math.log10(spread)))) if spread else 3


def data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
