"""What models have rewritten, as one web page to read and to mail."""

from pathlib import Path

from diffpo.text.evaluation.page import Wording, write_text_page

REWRITES = Wording(
    "rewrite",
    "rewrites",
    ("attributes", "style", "clean", "length", "drift", "pictured", "diversity", "shift"),
    "Means over all rewrites. Length is in tokens; drift is the distance of meaning from the prompt; diversity is how "
    "much two rewrites of one prompt differ; shift is how much likelier, in nats, a model's own rewrites are to it "
    "than to the first model.",
    ("turns", "seed", "temperature"),
)


def write_page(output_dir: Path, prompts: int = 100, each: int = 3) -> Path:
    """Write `report.html` from what an evaluation by `Rewriting` left; see `write_text_page`."""
    return write_text_page(output_dir, REWRITES, prompts, each)
