"""What models have written, as one web page to read and to mail: that of pictures, with texts in their place."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

from diffpo.core.refusal import Refusal
from diffpo.evaluation.report import Report
from diffpo.storage.files import name_failed_writes
from diffpo.storage.ledger import REMEDY
from diffpo.train.report.page import decimals, read_lines, render_page, strict_json

PARTS = Path(__file__).parent / "page_files"


@dataclass(frozen=True)
class Wording:
    """How a page speaks of texts.

    Attributes:
        thing: what one of them is called, in the models' `prompts.jsonl` too.
        each: key of a report for how many there are of each prompt.
        measured: what stands in the table of models beside scores, if it was measured.
        explained: that, in a sentence.
        facts: keys of a report that are told in the end.
    """

    thing: str
    each: str
    measured: tuple[str, ...]
    explained: str
    facts: tuple[str, ...]


ANSWERS = Wording(
    "answer",
    "answers",
    ("length", "diversity"),
    "Means over all answers; a judge's number is how likely an answer wins over those of the other models. Length is "
    "in characters; diversity is how much two answers to one prompt differ.",
    ("seed", "temperature"),
)


def write_text_page(output_dir: Path, wording: Wording = ANSWERS, prompts: int = 100, each: int = 3) -> Path:
    """Write `report.html` from `report.json` and the models' `prompts.jsonl`.

    Args:
        output_dir: what an evaluation left.
        prompts: how many are shown; the tables count all.
        each: texts of a prompt that are shown.

    Returns:
        Its path.

    Raises:
        Refusal: if there is no evaluation, or the page cannot be written.
    """
    try:
        report: Any = strict_json((output_dir / "report.json").read_text("utf-8"))
        lines = [read_lines(output_dir / entry["listing"]) for entry in report["models"].values()]
    except (OSError, KeyError) as error:
        raise Refusal(f"{output_dir} holds no finished evaluation ({error}); run one first.") from error
    many = report[wording.each]
    rows = [
        (lines[0][first]["prompt"], [of_model[first : first + min(each, many)] for of_model in lines])
        for first in range(0, min(prompts, report["n_prompts"]) * many, many)
    ]
    scores = {name: chain(*([line["scores"][name] for line in of] for of in lines)) for name in report["scorers"]}
    facts: Mapping[str, Any] = {"prompts": f"{report['n_prompts']} × {many}"} | {
        name: report[name] for name in wording.facts
    }
    said = {
        "thing": wording.thing,
        "many": many,
        "explained": wording.explained,
        "facts": facts,
        "rows": rows,
        "lengths": any("longer" in pair for pair in report["pairs"]),
        "measured": [name for name in wording.measured if all(name in entry for entry in report["models"].values())],
        "decimals": {name: decimals(numbers) for name, numbers in scores.items()},
    }
    path, whole = output_dir / "report.html", cast(Report, {"warnings": [], **report})
    with name_failed_writes(str(path), REMEDY):
        path.write_text(render_page(whole, output_dir, "texts.html", [PARTS], **said), "utf-8")
    return path
