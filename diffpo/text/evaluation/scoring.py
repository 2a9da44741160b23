"""A scorer's numbers for all answers of a source of texts, pairs or lists, written beside a copy of them."""

from collections.abc import Iterator, Mapping, Sequence
from math import isinf, isnan
from pathlib import Path
from typing import Any

from diffpo.annotators.captioners.roles import Interrupted
from diffpo.core.refusal import Refusal, require_at_least
from diffpo.data.pairs import rows_report
from diffpo.data.row_maps import SUMMARY
from diffpo.data.rows import RowMap
from diffpo.data.source import Source
from diffpo.evaluation.scorer import TextScorer
from diffpo.storage.files import name_failed_writes
from diffpo.storage.job_folder import JobFolder, join_processes
from diffpo.storage.ledger import REMEDY
from diffpo.storage.shared_work import shared_out
from diffpo.text.data.completions import join_spoken
from diffpo.text.evaluation.scored_rows import ScoredRows

UNFINISHED, RESULT = ".scoring", "train.parquet"


def score_texts(
    scorer: TextScorer,
    source: Source,
    output_dir: Path | str,
    rows: Sequence[RowMap] = (),
    seed: int = 0,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Score all answers, and write them with their scores as a parquet file that `diffpo.data.Columns` (pairs) or
    `diffpo.text.Lists` (lists) reads.

    Columns: prompt, chosen, rejected, prob, score_chosen and score_rejected, of lists prompt, responses and scores;
    prompt_chosen and prompt_rejected where prompts differ within pairs; and the source's others. Scoring relabels
    nothing. An answer of a pair that could not be rated has a null score; a list loses it, which is counted.

    All processes share the work. After a kill, or when an endpoint died, the same call goes on where it stopped; once
    finished, it does nothing.

    Args:
        rows: what drops or changes rows before they are scored; those with an empty answer are dropped in any case.
        seed: of the row maps.
        batch_size: answers that the scorer is given at a time.

    Returns:
        What is in `scores.json`: scorer and data; `min`, `max` and `count` of the scores; `unrated` answers;
        `agreement`, the share of pairs with a winner in which the scorer prefers the same side (a tie counts one half;
        null of lists); answers that are, with their prompts, longer than the scorer reads (`cut`); and what became of
        the rows, as a sentence (`kept`).

    Raises:
        Refusal: if the source or the scorer cannot be used, no answer can be rated, one has an infinite score, or the
            folder holds something else, cannot be written, or is full.
        Interrupted: if an endpoint dies.
    """
    require_at_least(1, batch_size=batch_size)
    state, folder = join_processes(), JobFolder(Path(output_dir), SUMMARY, UNFINISHED, ".parquet")
    folder.require_ours()
    with state.main_process_first():
        found = ScoredRows(source, rows, seed)
    identity = {**scorer.identity, "source": str(source), "rows": list(map(str, rows)), "seed": seed}
    identity |= {"answers": found.begins[-1], "digest": found.digest}
    if (finished := folder.finished(identity)) is not None:
        return finished
    scorer.check(list(dict.fromkeys(join_spoken(prompt) for row in found for prompt in row.prompts)))

    def rate(some: Sequence[int]) -> Iterator[dict[int, float | None]]:
        return rate_answers(scorer, [found.question(number) for number in some], some)

    numbers = range(found.begins[-1])
    scores = shared_out(numbers, rate, batch_size, folder.unfinished, identity, scorer.name, "answer")
    if state.is_main_process:
        cut = sum(scorer.count_long([x], [y]) for x, y in map(found.question, numbers))
        about = {**identity, **summarize_ratings(scores), "agreement": found.agreement(scores), "cut": cut}
        with name_failed_writes(str(folder.unfinished), REMEDY):
            found.write(scores, folder.unfinished / RESULT)
        folder.finish(about | {"lists": found.as_lists, "kept": rows_report(found.tables)}, [RESULT])
    state.wait_for_everyone()
    about = folder.finished(identity)
    assert about is not None
    return about


def rate_answers(
    scorer: TextScorer, questions: Sequence[tuple[Any, Any]], numbers: Sequence[int]
) -> Iterator[dict[int, float | None]]:
    """Scores by number, None of what could not be rated; those that an endpoint gave before it died come first.

    Raises:
        Refusal: if a score is infinite.
        Interrupted: if the endpoint died.
    """

    def numbered(found: Mapping[int, float]) -> dict[int, float | None]:
        if wrong := [score for score in found.values() if isinf(score)]:
            raise Refusal(f"{scorer.name} gives {wrong[0]} to an answer; let the scorer compute in float32.")
        return {numbers[i]: None if isnan(score) else score for i, score in found.items()}

    prompts, answers = zip(*questions, strict=True)
    try:
        found = dict(enumerate(scorer(prompts, answers).tolist()))
    except Interrupted as error:
        yield numbered(error.said)
        raise
    yield numbered(found)


def summarize_ratings(scores: Mapping[int, float | None]) -> dict[str, Any]:
    """What `scores.json` says of the scores; see `score_texts`."""
    known = [score for score in scores.values() if score is not None]
    if not known:
        raise Refusal(f"None of {len(scores)} answers could be rated; look at what the scorer is asked, and says.")
    return {"min": min(known), "max": max(known), "count": len(known), "unrated": len(scores) - len(known)}
