"""A scorer's numbers for both pictures of every pair, written beside a copy of the pairs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import read_image
from diffpo.data.files.records import Cell, Held
from diffpo.data.row_maps import SUMMARY
from diffpo.data.rows import RowMap
from diffpo.data.source import Source
from diffpo.diffusion.annotate.job import Job
from diffpo.diffusion.annotate.pairs_in_order import PairsInOrder, survey_rows
from diffpo.diffusion.annotate.read_ahead import Question, score_batches
from diffpo.diffusion.annotate.shards import PairShards, further_columns, mean_bytes, write_missing
from diffpo.evaluation.scorer import Scorer
from diffpo.storage.job_folder import JobFolder
from diffpo.storage.shared_work import shared_out

UNFINISHED = ".scoring"
BATCHES = 64


def score_pairs(
    scorer: Scorer,
    source: Source,
    output_dir: Path | str,
    rows: Sequence[RowMap] = (),
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Score both pictures of every pair, and write the pairs with their scores as parquet shards.

    Columns: prompt, chosen, rejected, score_chosen, score_rejected; prob, the source's P(chosen wins), since scoring
    relabels nothing (diffpo.data.ScoreLabel does, in training); prompt_chosen and prompt_rejected where prompts
    differ within pairs; and the source's other light columns. A picture that cannot be read has a null score.

    All processes share the work. After a kill, the same call goes on where it stopped; once finished, it does nothing.

    Args:
        rows: what drops pairs before they are scored.
        seed: of the row maps.
        batch_size: pictures that are read at a time; a scorer may divide them further.

    Returns:
        What is in `scores.json`: scorer and data; `min`, `max` and `count` of the scores; `unreadable` pictures;
        `agreement`, the share of pairs with a winner in which the scorer prefers the same side (equal scores count
        one half; null if there are no such pairs); `prompts`, each counted once, how many of them are longer than the
        scorer reads and were `cut`, and `notes` on some of the pairs.

    Raises:
        Refusal: if the source cannot be used or is not one of pairs, its pictures cannot be read, the scorer cannot
            be used, or the folder holds something else or is too small.
        Refusal: if the folder cannot be written, or is full.
    """
    folder = JobFolder(Path(output_dir), SUMMARY, UNFINISHED, ".parquet")
    job = Job.open(folder, source, rows, seed, batch_size)
    pairs, survey = job.pairs, survey_rows(job.pairs, silent=job.is_silent)
    identity = {**scorer.identity, **job.data, "seed": seed, "pairs": len(pairs), "digest": survey.digest}
    if (finished := folder.finished(identity)) is not None:
        return finished
    further = further_columns(pairs.columns, survey.per_side)
    shards = PairShards(pairs, further, survey.per_side, mean_bytes(pairs))
    folder.require_room("The pairs with their scores", len(pairs) * shards.mean)
    scorer.check(survey.prompts)
    job.begin()
    asked = partial(list_questions, pairs)
    scores = all_scores(range(2 * len(pairs)), asked, scorer, folder.unfinished, identity, batch_size)
    read = {"prompts": len(survey.prompts), "cut": scorer.count_cut(survey.prompts), "notes": dict(pairs.notes)}
    about = {**identity, **summarize_scores(scores, survey.decided), **read}
    write_missing(folder, shards, scores)
    job.finish(about, shards.names)
    return about


def all_scores(
    numbers: Sequence[int],
    asked: Callable[[Sequence[int]], Iterator[Question]],
    scorer: Scorer,
    folder: Path,
    identity: Mapping[str, Any],
    batch_size: int,
) -> dict[int, float | None]:
    """Scores by number: 2n is the chosen picture of pair n, 2n + 1 the rejected one; None if it cannot be read.

    Args:
        asked: the question that each of some numbers stands for.

    Raises:
        Refusal: if a score is not finite.
    """

    def found(some: Sequence[int]) -> Iterator[dict[int, float | None]]:
        for answers in score_batches([scorer], list(asked(some)), batch_size):
            yield {
                question.row: require_finite_score(scores[scorer.name], question, scorer)
                for question, scores in answers
            }

    return shared_out(numbers, found, BATCHES * batch_size, folder, identity, scorer.name, "picture")


def list_questions(pairs: PairsInOrder, numbers: Sequence[int]) -> Iterator[Question]:
    for n, of_pair in groupby(numbers, key=lambda number: number // 2):
        row = pairs[n]
        for number in of_pair:
            side = number % 2
            yield Question(number, str(row.prompts[side]), partial(read_candidate, row.candidates[side]))


def read_candidate(candidate: Cell | Held) -> Image.Image:
    return read_image(candidate.read(), candidate.folder, candidate.most)


def require_finite_score(score: float | None, question: Question, scorer: Scorer) -> float | None:
    if score is not None and not isfinite(score):
        raise Refusal(
            f"{scorer.name} gives {score} to a picture of {question.prompt!r}; let the scorer compute in float32."
        )
    return score


def summarize_scores(scores: Mapping[int, float | None], decided: Bool[np.ndarray, " n"]) -> dict[str, Any]:
    """What `scores.json` says of the scores; see `score_pairs`."""
    values = np.array([scores[number] for number in range(len(scores))], dtype=float).reshape(-1, 2)
    known = np.isfinite(values)
    if not known.any():
        raise Refusal(f"None of the {values.size} pictures can be read; check what the source names as pictures.")
    gaps = np.diff(values, axis=1)[decided & known.all(1), 0]
    agreement = float(np.mean((gaps < 0) + (gaps == 0) / 2)) if len(gaps) else None
    return {
        "min": float(values[known].min()),
        "max": float(values[known].max()),
        "count": int(known.sum()),
        "unreadable": int((~known).sum()),
        "agreement": agreement,
    }
