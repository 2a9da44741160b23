"""A scorer's numbers for both pictures of every pair, written beside a copy of the pairs."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator, InitProcessGroupKwargs, PartialState
from jaxtyping import Bool
from PIL import Image
from tqdm import tqdm

from diffpo.cells import Cell, Held
from diffpo.diffusion.images import read_image
from diffpo.diffusion.judging import Question, judged
from diffpo.diffusion.pair_shards import PairShards, further_columns, mean_bytes
from diffpo.diffusion.pairs_in_order import PairsInOrder, surveyed
from diffpo.files import writing
from diffpo.ledger import REMEDY, Ledger, require_same, write_json
from diffpo.rows import RowMap
from diffpo.scoring import SUMMARY, Scorer
from diffpo.sources import Source

UNFINISHED = ".scoring"  # hidden, so that `datasets` does not take it for data
BATCHES = 64
WAIT = timedelta(days=7)  # until the slowest process is done; torch gives up after minutes


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
    relabels nothing (diffpo.rows.ScoreLabel does, in training); prompt_chosen and prompt_rejected where prompts differ
    within pairs; and the source's other light columns. A picture that cannot be read has a null score.

    All processes share the work. After a kill, the same call goes on where it stopped; once finished, it does nothing.

    Args:
        rows: what drops pairs before they are scored.
        seed: of the row maps.
        batch_size: pictures that are read at a time; a scorer may divide them further.

    Returns:
        What is in `scores.json`: scorer and data; `min`, `max` and `count` of the scores; `unreadable` pictures; and
        `agreement`, the share of pairs with a winner in which the scorer prefers the same side (equal scores count
        one half; null if there are no such pairs).

    Raises:
        ValueError: if the source cannot be used or is not one of pairs, its pictures cannot be read, the scorer cannot
            be used, or the folder holds something else or is too small.
        RuntimeError: if the folder cannot be written, or is full.
    """
    state = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)])
    output_dir = Path(output_dir)
    require_ours(output_dir)
    with state.main_process_first():
        pairs = PairsInOrder(source, rows, seed)
    survey = surveyed(pairs, silent=not state.is_main_process)
    data = {"source": str(source), "rows": [str(row_map) for row_map in rows], "seed": seed, "pairs": len(pairs)}
    identity = {**scorer.identity, **data, "digest": survey.digest}
    if (output_dir / SUMMARY).exists():
        finished = json.loads((output_dir / SUMMARY).read_text())
        require_same({key: finished.get(key) for key in identity}, identity, output_dir)
        return finished
    further = further_columns(pairs.columns, survey.per_side)
    shards = PairShards(pairs, further, survey.per_side, mean_bytes(pairs))
    require_room(output_dir, len(pairs) * shards.mean)
    scorer.check(survey.prompts)
    state.wait_for_everyone()  # nobody writes before all have looked
    scores = all_scores(pairs, scorer, output_dir / UNFINISHED, identity, batch_size)
    about = {**identity, **summary(scores, survey.decided)}
    for shard in range(state.process_index, len(shards.names), state.num_processes):
        if not any((folder / shards.names[shard]).exists() for folder in (output_dir, output_dir / UNFINISHED)):
            shards.write(shard, output_dir / UNFINISHED, scores)
    state.wait_for_everyone()
    if state.is_main_process:
        finish(output_dir, about)
    state.wait_for_everyone()
    return about


def require_ours(output_dir: Path) -> None:
    """Raise a ValueError if the folder holds something that is not from here; make it if there is none."""
    with writing(f"output_dir {output_dir}", REMEDY):
        output_dir.mkdir(parents=True, exist_ok=True)
    found = {path.name for path in output_dir.iterdir()}
    if found and not found & {SUMMARY, UNFINISHED}:
        raise ValueError(f"output_dir {output_dir} is not empty; choose another one.")


def require_room(output_dir: Path, needed: float) -> None:
    """Raise a ValueError if the copied pictures will not fit on the disk.

    Args:
        needed: their bytes, about.
    """
    left = needed - sum(file.stat().st_size for file in output_dir.rglob("*.parquet"))
    if left > (free := shutil.disk_usage(output_dir).free):
        raise ValueError(
            f"The pairs with their scores need about {left / 2**30:.2f} GiB, the disk of {output_dir} has "
            f"{free / 2**30:.2f} GiB free: free some space, or choose another output_dir."
        )


def all_scores(
    pairs: PairsInOrder, scorer: Scorer, folder: Path, identity: Mapping[str, Any], batch_size: int
) -> dict[int, float | None]:
    """Scores by number: 2n is the chosen picture of pair n, 2n + 1 the rejected one; None if it cannot be read.

    Raises:
        ValueError: if a score is not finite, or no picture can be read.
    """
    state = PartialState()
    ledger = Ledger(folder, identity, state.process_index)
    state.wait_for_everyone()  # nobody adds before all have seen the same
    missing = [number for number in range(2 * len(pairs)) if number not in ledger.done]
    mine = np.array_split(missing, state.num_processes)[state.process_index].tolist()
    with tqdm(total=len(mine), desc=scorer.name, unit="picture", disable=not state.is_main_process) as bar:
        for begin in range(0, len(mine), BATCHES * batch_size):
            some = list(questions(pairs, mine[begin : begin + BATCHES * batch_size]))
            for answers in judged([scorer], some, batch_size):
                ledger.add(
                    {question.row: finite(scores[scorer.name], question, scorer) for question, scores in answers}
                )
                bar.update(len(answers))
    state.wait_for_everyone()
    return Ledger(folder, identity, state.process_index).done


def questions(pairs: PairsInOrder, numbers: Sequence[int]) -> Iterator[Question]:
    for n, of_pair in groupby(numbers, key=lambda number: number // 2):
        row = pairs[n]
        for number in of_pair:
            side = number % 2
            yield Question(number, str(row.prompts[side]), partial(read, row.candidates[side]))


def read(candidate: Cell | Held) -> Image.Image:
    return read_image(candidate.read(), candidate.folder)


def finite(score: float | None, question: Question, scorer: Scorer) -> float | None:
    if score is not None and not isfinite(score):
        raise ValueError(
            f"{scorer.name} gives {score} to a picture of {question.prompt!r}; let the scorer compute in float32."
        )
    return score


def summary(scores: Mapping[int, float | None], decided: Bool[np.ndarray, " n"]) -> dict[str, Any]:
    """What `scores.json` says of the scores; see `score_pairs`."""
    values = np.array([scores[number] for number in range(len(scores))], dtype=float).reshape(-1, 2)
    known = np.isfinite(values)
    if not known.any():
        raise ValueError(f"None of the {values.size} pictures can be read; check what the source names as pictures.")
    gaps = np.diff(values, axis=1)[decided & known.all(1), 0]
    agreement = float(np.mean((gaps < 0) + (gaps == 0) / 2)) if len(gaps) else None
    return {
        "min": float(values[known].min()),
        "max": float(values[known].max()),
        "count": int(known.sum()),
        "unreadable": int((~known).sum()),
        "agreement": agreement,
    }


def finish(output_dir: Path, about: Mapping[str, Any]) -> None:
    """The shards to their place, then what tells that they are all there."""
    with writing(f"The shards in {output_dir}", REMEDY):
        for file in (output_dir / UNFINISHED).glob("*.parquet"):
            file.rename(output_dir / file.name)
    write_json(output_dir / SUMMARY, about)
    shutil.rmtree(output_dir / UNFINISHED)
