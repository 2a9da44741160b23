"""An evaluation as one web page to read and to mail: verdicts, tables, charts, pictures side by side; no network."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import BrokenImage, read_image
from diffpo.evaluation.report import PictureReport
from diffpo.storage.files import name_failed_writes
from diffpo.storage.ledger import REMEDY
from diffpo.train.report.page import data_url, decimals, read_lines, render_page, strict_json

PARTS = Path(__file__).parent / "page_files"
SCRIPTS = ("page.js", "page_charts.js", "page_gallery.js")
AS_STORED = 64


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
        said["javascript"] = Markup("\n".join((PARTS / name).read_text("utf-8") for name in SCRIPTS))
        path.write_text(render_page(report, output_dir, "page.html", [PARTS], **said), "utf-8")
    return path


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


def seeds(lines: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """By model, from which seeds its pictures were drawn."""
    drawn = {name: [line["seed"] for line in rows if line["seed"] is not None] for name, rows in lines.items()}
    return {name: f"{min(used)} to {max(used)}" if used else "not drawn here" for name, used in drawn.items()}
