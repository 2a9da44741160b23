"""Two captions for every pair, written beside a copy of the pairs (DCPO, arXiv:2502.06023)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Value

from diffpo.annotators.captioners.roles import SUMMARY
from diffpo.data.rows import RowMap
from diffpo.data.source import Source
from diffpo.diffusion.annotate.caption_summary import gap, opened_tokenizer, summarize_captions
from diffpo.diffusion.annotate.caption_texts import Plan, Text, Texts
from diffpo.diffusion.annotate.job import Job
from diffpo.diffusion.annotate.pairs_in_order import PairsInOrder, survey_rows
from diffpo.diffusion.annotate.read_ahead import Question
from diffpo.diffusion.annotate.score import all_scores, read_candidate
from diffpo.diffusion.annotate.shards import PairShards, further_columns, mean_bytes, write_missing
from diffpo.evaluation.scorer import Scorer
from diffpo.storage.job_folder import JobFolder

UNFINISHED = ".captioning"
CLIP = "openai/clip-vit-large-patch14"
NAMES = ("caption_chosen", "caption_rejected", "raw_chosen", "raw_rejected", "perturbed_from")
CAPTIONS: dict[str, Any] = dict.fromkeys(NAMES, Value("string"))


@dataclass(frozen=True, eq=False)
class CaptionShards(PairShards):
    """Pairs with the texts numbered 2n (chosen) and 2n + 1 (rejected)."""

    @property
    def added(self) -> dict[str, Any]:
        return CAPTIONS

    def found(self, n: int, results: Mapping[int, Text]) -> dict[str, Any]:
        chosen, rejected = results[2 * n], results[2 * n + 1]
        values = (chosen["caption"], rejected["caption"], chosen["raw"], rejected["raw"], rejected["perturbed_from"])
        return dict(zip(NAMES, values, strict=True))


def caption_pairs(
    plan: Plan,
    source: Source,
    output_dir: Path | str,
    rows: Sequence[RowMap] = (),
    batch_size: int = 64,
    tokenizer: str | None = CLIP,
    scorer: Scorer | None = None,
) -> dict[str, Any]:
    """Two captions for every pair, written with the pairs as parquet shards.

    Columns: those of `diffpo.diffusion.annotate.score.score_pairs` but the scores, all other light ones of the source
    among them; caption_chosen and caption_rejected, null where there is none: such a pair is to be trained with its
    prompt on both sides; raw_chosen and raw_rejected, the answers as they came, null where no model was asked; and
    perturbed_from, the text that was perturbed for the rejected side.

    All processes share the work. After a kill, the same call goes on where it stopped; once finished, it does nothing.

    Args:
        rows: what drops pairs before they are captioned.
        batch_size: pictures or texts that are asked about at a time; a model may divide them further.
        tokenizer: hub id or path; it counts tokens for the summary. None counts none.
        scorer: judges how near pictures and captions are, for the summary, e.g. diffpo.scorers.CLIPScore.

    Returns:
        What is in `captions.json`: plan and data; `captions` that there are; `empty` answers (after all tries),
        `unanswerable` questions (the picture cannot be read, or there is no text to perturb), answers that were
        `retried`, and pairs that have to `fallback`; the share of pairs with `equal` captions; the distribution of
        `words` and `tokens`; the share `truncated` at the tokenizer's `limit`; the `gap` of the scores, and how many
        captions the scorer `cut` for them; and `notes` on some of the pairs.

    Raises:
        Refusal: if the source, a model, the tokenizer or the scorer cannot be used, no pair gets two captions, or
            the folder holds something else or is too small.
        Refusal: if the folder cannot be written, or an endpoint stops answering.
    """
    folder = JobFolder(Path(output_dir), SUMMARY, UNFINISHED, ".parquet")
    job = Job.open(folder, source, rows, plan.seed, batch_size)
    pairs = job.pairs
    for side in (0, 1):
        plan.original(pairs[0], side)
    survey = survey_rows(pairs, silent=job.is_silent)
    judges = {"tokenizer": tokenizer, "scorer": scorer and scorer.identity}
    identity = {**plan.identity, **job.data, "pairs": len(pairs), "digest": survey.digest, **judges}
    if (finished := folder.finished(identity)) is not None:
        return finished
    further = further_columns(pairs.columns, survey.per_side, CAPTIONS)
    shards = CaptionShards(pairs, further, survey.per_side, mean_bytes(pairs))
    folder.require_room("The pairs with their captions", len(pairs) * shards.mean)
    counter = None if tokenizer is None else opened_tokenizer(tokenizer)
    if scorer is not None:
        scorer.check(survey.prompts)
    for speaker in plan.speakers:
        speaker.check()
    job.begin()
    work = Texts(pairs, plan, folder.unfinished, identity, batch_size)
    texts = work.all()
    about = {
        **identity,
        **summarize_captions(texts, (work.captions, work.perturbed), counter),
        "notes": dict(pairs.notes),
    }
    if scorer is not None:
        numbers = [number for number, text in texts.items() if text["caption"] is not None]
        asked = partial(about_captions, pairs, texts)
        scores = all_scores(numbers, asked, scorer, folder.unfinished / "scores", identity, batch_size)
        said = {str(texts[number]["caption"]) for number in numbers}
        about["gap"] = gap(scores, len(pairs)) | {"cut": scorer.count_cut(sorted(said))}
    write_missing(folder, shards, texts)
    job.finish(about, shards.names)
    return about


def about_captions(pairs: PairsInOrder, texts: Mapping[int, Text], numbers: Sequence[int]) -> Iterator[Question]:
    """Whether pictures show what their own captions say."""
    for number in numbers:
        candidate = pairs[number // 2].candidates[number % 2]
        yield Question(number, str(texts[number]["caption"]), partial(read_candidate, candidate))
