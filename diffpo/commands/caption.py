"""Give every pair of a dataset two captions: one for each picture (DCPO).

accelerate launch scripts/caption_pairs.py --config configs/annotate/caption.yaml --output_dir captioned
"""

from pathlib import Path
from typing import Any

from diffpo.annotators.captioners.roles import SUMMARY, Captioner, Perturber, Strategy, Strength
from diffpo.data.rows import RowMap
from diffpo.data.source import Source
from diffpo.diffusion.annotate.caption import CLIP, caption_pairs
from diffpo.diffusion.annotate.caption_summary import bars
from diffpo.diffusion.annotate.caption_texts import Plan
from diffpo.diffusion.annotate.job import run_job
from diffpo.evaluation.scorer import Scorer


def main(
    source: Source,
    output_dir: Path,
    strategy: Strategy,
    strength: Strength = Strength.weak,
    captioner: Captioner | None = None,
    perturber: Perturber | None = None,
    columns: tuple[str, str] | None = None,
    rows: list[RowMap] | None = None,
    seed: int = 0,
    retries: int = 2,
    batch_size: int = 64,
    tokenizer: str | None = CLIP,
    scorer: Scorer | None = None,
    settings: str = "",
) -> None:
    """Give every pair of a dataset two captions: one for each picture (DCPO).

    Args:
        source: the pairs, e.g. diffpo.data.PickAPic; or diffpo.data.Columns for what this script wrote.
        output_dir: gets parquet shards that diffpo.data.Columns reads, and captions.json. After a kill, the same
            command goes on where it stopped.
        strategy: caption both pictures; perturb the prompt for the rejected side; hybrid: caption both and perturb
            the rejected side's caption; hybrid_of_winner: caption the chosen one, and perturb that caption for the
            rejected side.
        strength: how far a perturbed text goes from the original.
        captioner: who sees picture and prompt, e.g. diffpo.annotators.ChatCaptioner.
        perturber: who says a text in other words, e.g. diffpo.annotators.Dipper.
        columns: of captions that were written before and are now to be perturbed, for the chosen and the rejected
            side, e.g. [caption_chosen, caption_rejected]; null is the prompts.
        rows: what drops pairs before they are captioned; null keeps all.
        seed: of the models' draws and of the row maps.
        retries: how often an empty answer is asked for again.
        batch_size: pictures or texts that are asked about at a time; a model may divide them further.
        tokenizer: hub id or path of the text encoder's tokenizer, which counts tokens for the summary; null counts
            none.
        scorer: who judges how near pictures and captions are, for the summary, e.g.
            diffpo.scorers.CLIPScore; null judges nothing.
        settings: the resolved config.
    """
    plan = Plan(strategy, captioner, perturber, strength, columns, retries, seed)
    run_job(
        lambda: caption_pairs(plan, source, output_dir, rows or [], batch_size, tokenizer, scorer),
        summary=output_dir / SUMMARY,
        settings=settings,
        done="captioned",
        describe=describe_captions,
        repeats=False,
    )


def describe_captions(found: dict[str, Any], output_dir: Path) -> str:
    """The summary in sentences, and the histogram of the gaps."""
    words = {side: f"{lengths['mean']:.1f}" for side, lengths in found["words"].items()}
    cut = f"; {found['truncated']:.1%} are longer than {found['limit']} tokens" if "limit" in found else ""
    notes = "".join(f" {count} pairs {note}." for note, count in found["notes"].items())
    sentences = (
        f"{found['captions']} captions for {found['pairs']} pairs ({found['strategy']}), of {words['chosen']} words "
        f"on average for chosen and {words['rejected']} for rejected pictures{cut}; {found['equal']:.1%} of the pairs "
        f"have equal ones. {found['retried']} answers were asked for again, {found['empty']} stayed empty; "
        f"{found['fallback']} pairs lack a caption and fall back to their prompt.{notes} They are in {output_dir}: "
        f"diffpo.data.Columns reads them."
    )
    if not found.get("gap", {"pairs": 0})["pairs"]:
        return sentences
    gap = found["gap"]
    near = (
        f"{found['scorer']['scorer']} of (chosen, its caption) minus (rejected, its caption): {gap['mean']:.4g} on "
        f"average, positive in {gap['positive']:.1%} of {gap['pairs']} pairs:"
    )
    return "\n".join([sentences, near, bars(gap["histogram"])])
