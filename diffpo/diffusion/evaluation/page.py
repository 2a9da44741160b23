"""An evaluation as one web page to read and to mail: verdicts, tables, charts, pictures side by side; no network."""

import base64
import json
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from statistics import pstdev
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import BrokenImage, read_image
from diffpo.evaluation.report import PictureReport, Report
from diffpo.storage.files import name_failed_writes
from diffpo.storage.ledger import REMEDY
from diffpo.train.report.curves import CURVES

PARTS = Path(__file__).parent / "page_files"
SCRIPTS = ("page.js", "page_charts.js", "page_gallery.js")
AS_STORED = 64
EXTRAS = ("attributes", "style", "clean")


def write_page(output_dir: Path, rows: int = 500, side: int = 320) -> Path:
    """Write `report.html` from `report.json` and the models' `prompts.jsonl`, with the pictures inside.

    Args:
        output_dir: what an evaluation left.
        rows: pictures of each model in the gallery, as whole prompts and at least one; the charts use all scores.
        side: pixels of the longer side of a thumbnail; pictures of at most 64 stay as they are.

    Returns:
        Its path.

    Raises:
        Refusal: if there is no evaluation.
        Refusal: if the page cannot be written.
    """
    try:
        report: PictureReport = strict_json((output_dir / "report.json").read_text("utf-8"))
        lines = {name: read_lines(output_dir / entry["listing"]) for name, entry in report["models"].items()}
    except (OSError, KeyError) as error:
        raise Refusal(
            f"{output_dir} holds no finished evaluation ({error}); run scripts/evaluate.py first."
        ) from error
    folders = [output_dir / entry["folder"] for entry in report["models"].values()]
    aligned = list(zip(*lines.values(), strict=True))
    shown = aligned[: max(1, rows // report["pictures"]) * report["pictures"]]
    files = [folder / line["file"] for row in shown for folder, line in zip(folders, row, strict=True)]
    with ThreadPoolExecutor(4, "thumbnails") as pool:
        pictures = list(pool.map(lambda file: embedded(file, side), files))
    numbers = figures(report, aligned, len(shown))
    path = output_dir / "report.html"
    with name_failed_writes(str(path), REMEDY):
        said = {"numbers": numbers, "pictures": pictures, "seeds": seeds(lines)}
        said |= {"thing": "picture", "decimals": {scorer["name"]: scorer["decimals"] for scorer in numbers["scorers"]}}
        path.write_text(render_page(report, output_dir, "page.html", **said), "utf-8")
    return path


def strict_json(text: str) -> Any:
    """Python writes NaN and Infinity, which no browser reads: here they are no number at all."""
    return json.loads(text, parse_constant=lambda _: None)


def read_lines(file: Path) -> list[dict[str, Any]]:
    return [strict_json(line) for line in file.read_text("utf-8").split("\n") if line]


def embedded(file: Path, side: int) -> dict[str, Any] | None:
    """A picture as the page holds it: its data, width and height; None if it cannot be read."""
    try:
        picture = read_image(file)
    except BrokenImage:
        return None
    if max(picture.size) <= AS_STORED:
        kind, content = "png", file.read_bytes() if file.suffix == ".png" else saved(picture, "PNG")
    else:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        kind, content = "webp", saved(picture, "WEBP", quality=80)
    return {"source": data_url(kind, content), "width": picture.width, "height": picture.height}


def data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def figures(report: PictureReport, aligned: Sequence[tuple[dict[str, Any], ...]], shown: int) -> dict[str, Any]:
    """All numbers of the page: what its charts and its gallery are made of.

    Args:
        aligned: for each picture number the lines of all models.
        shown: how many of them are in the gallery.
    """
    scores = {
        scorer: [[row[i]["scores"].get(scorer) for row in aligned] for i in range(len(report["models"]))]
        for scorer in report["scorers"]
    }
    return {
        "models": list(report["models"]),
        "pictures": report["pictures"],
        "scorers": [{"name": name, "decimals": decimals(chain(*scores[name]))} for name in report["scorers"]],
        "scores": scores,
        "pairs": report["pairs"],
        "sweep": report.get("guidance_sweep"),
        "rows": [
            {
                "prompt": row[0]["prompt"],
                "files": [line["file"] for line in row],
                "seeds": [line["seed"] for line in row],
            }
            for row in aligned[:shown]
        ],
    }


def decimals(numbers: Iterable[float | None]) -> int:
    """As many as show three digits of the standard deviation."""
    spread = pstdev([number for number in numbers if number is not None] or [0])
    return min(6, max(0, 2 - math.floor(math.log10(spread)))) if spread else 3


def seeds(lines: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """By model, from which seeds its pictures were drawn."""
    drawn = {name: [line["seed"] for line in rows if line["seed"] is not None] for name, rows in lines.items()}
    return {name: f"{min(used)} to {max(used)}" if used else "not drawn here" for name, used in drawn.items()}


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
        parts: folders where templates are looked for before those of this page.
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
        javascript=Markup("\n".join((PARTS / name).read_text("utf-8") for name in SCRIPTS)),
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
