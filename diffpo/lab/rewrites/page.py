"""What models have rewritten, as one web page to read and to mail: that of pictures, with texts in their place."""

from itertools import chain
from pathlib import Path

from diffpo.core.refusal import Refusal
from diffpo.diffusion.evaluation.page import decimals, read_lines, render_page, strict_json
from diffpo.evaluation.report import RewriteReport
from diffpo.storage.files import name_failed_writes
from diffpo.storage.ledger import REMEDY

PARTS = Path(__file__).parent / "page_files"
MEASURED = ("attributes", "style", "clean", "length", "drift", "pictured", "diversity", "shift")


def write_page(output_dir: Path, prompts: int = 100, each: int = 3) -> Path:
    """Write `report.html` from `report.json` and the models' `prompts.jsonl`.

    Args:
        output_dir: what an evaluation by `Rewriting` left.
        prompts: how many are shown; the tables count all.
        each: rewrites of a prompt that are shown.

    Returns:
        Its path.

    Raises:
        Refusal: if there is no evaluation, or the page cannot be written.
    """
    try:
        report: RewriteReport = strict_json((output_dir / "report.json").read_text("utf-8"))
        lines = [read_lines(output_dir / entry["listing"]) for entry in report["models"].values()]
    except (OSError, KeyError) as error:
        raise Refusal(f"{output_dir} holds no finished evaluation ({error}); run one first.") from error
    many = report["rewrites"]
    rows = [
        (lines[0][first]["prompt"], [of_model[first : first + min(each, many)] for of_model in lines])
        for first in range(0, min(prompts, report["n_prompts"]) * many, many)
    ]
    scores = {name: chain(*([line["scores"][name] for line in of] for of in lines)) for name in report["scorers"]}
    said = {
        "thing": "rewrite",
        "rows": rows,
        "measured": [name for name in MEASURED if all(name in entry for entry in report["models"].values())],
        "decimals": {name: decimals(numbers) for name, numbers in scores.items()},
    }
    path = output_dir / "report.html"
    whole: RewriteReport = {"warnings": [], **report}
    with name_failed_writes(str(path), REMEDY):
        path.write_text(render_page(whole, output_dir, "rewrites.html", [PARTS], **said), "utf-8")
    return path
