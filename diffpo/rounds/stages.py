"""The stages of a round before training: sample, judge, pair. Each is resumed where a kill stopped it."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

from accelerate import PartialState

from diffpo.annotators.captioners.roles import Interrupted
from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.processes.everyone import on_main
from diffpo.rounds.contents import keep_content, name_content, open_content
from diffpo.rounds.pairings import ask_wins
from diffpo.rounds.questions import Recording
from diffpo.rounds.roles import Judge, Pair, Pairing, Sampled, Sampler
from diffpo.rounds.tables import (
    CANDIDATES,
    PAIRS,
    WINS,
    Answers,
    read_candidates,
    read_table,
    read_wins,
    write_candidates,
    write_pair_table,
    write_wins,
)
from diffpo.storage.digests import known_digest
from diffpo.storage.ledger import require_same
from diffpo.storage.shared_work import shared_out

MOST_LOST = 0.95  # share of prompts without a pair that a round goes on with
OURS = ("prompt_id", "candidate", "seed", "guidance", "steps")
TOGETHER = 64  # prompts that are kept at a time: what a kill costs each process


def sample_candidates(
    folder: Path,
    prompts: Mapping[int, Any],
    sampler: Sampler,
    load: Callable[[], Any],
    k: int,
    seed: int,
    number: int,
    model: str,
) -> None:
    """Write `candidates.parquet`: k answers to each prompt. Every process calls this, and they share the work.

    Pictures lie in `pictures/` beside it, and the table holds their paths and digests.

    Args:
        prompts: by id.
        load: what the sampler is given; called when something is missing.
        number: of the round, the epoch of all draws.
        model: what the table calls the model.

    Raises:
        Refusal: if the folder holds candidates of something else; it says what differs.
        Interrupted: if an endpoint does not answer; all candidates of a prompt that it had given are kept.
    """
    about = {"k": k, "seed": seed, "round": number, "model": model, "sampler": sampler.identity}
    about |= {"prompts": count_and_key(prompts)}
    if is_made(folder / CANDIDATES, about):
        return
    loaded = cache(load)

    def kept(n: int, some: Sequence[Sampled]) -> list[Any]:
        return [[keep_content(folder, f"{n:06d}-{c}", one.content), one.about] for c, one in enumerate(some)]

    def answer(numbers: Sequence[int]) -> Iterator[dict[int, Any]]:
        draws, asked = Draws(seed, (number,) * len(numbers), tuple(numbers)), [prompts[n] for n in numbers]
        try:
            sides = sampler(loaded(), asked, k, draws)
        except Interrupted as error:  # prompts of which all was said are kept
            places = [[i + c * len(asked) for c in range(k)] for i in range(len(asked))]
            whole = [i for i, some in enumerate(places) if error.said.keys() >= {*some}]
            yield {numbers[i]: kept(numbers[i], [error.said[place] for place in places[i]]) for i in whole}
            raise
        yield {n: kept(n, some) for n, some in zip(numbers, zip(*sides, strict=True), strict=True)}

    unfinished = folder / ".sampling"
    together = min(TOGETHER, sampler.together or TOGETHER)
    entries = shared_out(list(prompts), answer, together, unfinished, about, "sampling", " prompts")
    on_main(lambda: write_candidates(folder / CANDIDATES, prompts, entries, about))
    clear(unfinished)


def judge_candidates(folder: Path, judge: Judge, pairing: Pairing | None) -> None:
    """Write `wins.parquet`: what a judge says of the candidates. Every process calls this, and they share the work.

    Prompts whose candidates are all equal are not asked about.

    Args:
        pairing: whose questions are asked; None asks about each two candidates of a prompt.

    Raises:
        Refusal: if the folder holds verdicts of something else, or a verdict is no probability.
    """
    answers, made = read_candidates(folder)
    about = {"judge": judge.identity, "pairing": repr(pairing), "candidates": digest_in(folder, CANDIDATES)}
    if is_made(folder / WINS, about):
        return
    places = {n: row for row, n in enumerate(answers.ids)}

    def ask(numbers: Sequence[int]) -> Iterator[dict[int, Any]]:
        before, recording = judge.noted, Recording(judge, partial(open_content, folder))
        some = answers.of([places[n] for n in numbers])
        scores = recording.scores(some.prompts, some.contents)
        if pairing is None:
            ask_wins(recording, some.prompts, some.contents)
        else:
            pairing(some.prompts, some.contents, recording, scores, draws_of(some, made))
        noted = {"questions": recording.asked, **(judge.noted - before)}
        rows = enumerate(zip(*some.contents, strict=True))
        said = [recording.verdicts_on(some.prompts[row], contents) for row, contents in rows]
        rated = [None] * len(said) if scores is None else scores.T.tolist()
        sums = [noted] + [{}] * (len(said) - 1)
        both = zip(numbers, said, rated, sums, strict=True)
        yield {n: {"said": verdicts, "scores": rates, "noted": counts} for n, verdicts, rates, counts in both}

    unfinished, asked = folder / ".judging", [answers.ids[row] for row in answers.told_apart]
    entries = shared_out(asked, ask, TOGETHER, unfinished, about, "judging", " prompts")
    noted = sum((Counter(entries[n]["noted"]) for n in asked), Counter[str]())
    on_main(lambda: write_wins(folder / WINS, answers, entries, about | {"noted": dict(noted)}))
    clear(unfinished)


def pair_candidates(folder: Path, pairing: Pairing) -> None:
    """Write `pairs.parquet` from what the judge has said; every process calls this.

    Raises:
        Refusal: if the judge was not asked what this pairing asks, or nearly all prompts have no pair.
    """
    about = {"pairing": repr(pairing), "wins": digest_in(folder, WINS)}
    if is_made(folder / PAIRS, about):
        return

    def write() -> None:
        answers, made = read_candidates(folder)
        judge, _ = read_wins(folder, answers)
        rows = answers.told_apart
        some = answers.of(rows)
        scores = judge.scores(some.prompts, some.contents) if rows else None
        found = pairing(some.prompts, some.contents, judge, scores, draws_of(some, made)) if rows else []
        pairs = [pair._replace(row=rows[pair.row]) for pair in found]
        require_pairs(answers, pairs, folder)
        write_pair_table(folder / PAIRS, answers, pairs, about)

    on_main(write)


def require_pairs(answers: Answers, pairs: Sequence[Pair], folder: Path) -> None:
    """Raise a Refusal if nearly all prompts have no pair."""
    count, paired = len(answers.ids), len({pair.row for pair in pairs})
    if count - paired > MOST_LOST * count or not paired:
        equal = count - len(answers.told_apart)
        raise Refusal(
            f"Of {count} prompts of {folder}, {count - paired} have no pair: the candidates of {equal} are all equal, "
            "those of the others tie; sample at a higher temperature, sample more of them, or lower the gap."
        )


def describe_round(folder: Path) -> dict[str, Any]:
    """What became of the prompts, from the three tables, which are all that decides it.

    Returns:
        `prompts` and `candidates` of each; `pairs`; `yield`, the share of prompts with a pair; `equal` prompts whose
        candidates are all equal, and `tied` ones that have no pair for another reason; `duplicates`, the share of
        candidates that an earlier one of the prompt equals; `questions`, and what else of the judge is counted;
        `utility`, the mean score where there are scores and candidates differ, and `utility_chosen`; and the mean of
        each number that is recorded of candidates, e.g. `tokens`.
    """
    answers, _ = read_candidates(folder)
    judge, judged = read_wins(folder, answers)
    pairs, _ = read_table(folder / PAIRS)
    count, k, equal = len(answers.ids), len(answers.contents), len(answers.ids) - len(answers.told_apart)
    with_pair = len({pair["prompt_id"] for pair in pairs})
    repeated = sum(k - len(set(keys)) for keys in answers.keyed)
    recorded = [record for side in answers.about for record in side]
    names = [name for name, value in recorded[0].items() if isinstance(value, bool | int | float) and name not in OURS]
    means = {name: fmean(float(record[name]) for record in recorded) for name in names}
    some = answers.of(answers.told_apart)
    scores = judge.scores(some.prompts, some.contents)
    utility = {} if scores is None else {"utility": scores.mean().item()}
    utility |= {} if scores is None else {"utility_chosen": fmean(pair["score_chosen"] for pair in pairs)}
    return {
        "prompts": count,
        "candidates": k,
        "pairs": len(pairs),
        "yield": with_pair / count,
        "equal": equal,
        "tied": count - with_pair - equal,
        "duplicates": repeated / (k * count),
        **judged.get("noted", {}),
        **utility,
        **means,
    }


def draws_of(answers: Answers, made: Mapping[str, Any]) -> Draws:
    """Draws about prompts, of the seed and round that their candidates were sampled with; 0 if nothing says."""
    return Draws(made.get("seed", 0), (made.get("round", 0),) * len(answers.ids), answers.ids)


def is_made(file: Path, about: Mapping[str, Any]) -> bool:
    """Whether a table is there; every process calls this.

    Raises:
        Refusal: if it is of something else; it says what differs.
    """

    def look() -> bool:
        if not file.exists():
            return False
        _, said = read_table(file)
        require_same({key: said.get(key) for key in about}, about, file.parent)
        return True

    on_main(look)
    PartialState().wait_for_everyone()
    return file.exists()


def digest_in(folder: Path, name: str) -> str:
    """Of a table, whoever wrote it."""
    return known_digest(folder / name)["sha256"]


def count_and_key(prompts: Mapping[int, Any]) -> str:
    """What tells these prompts from others."""
    written = name_content([[n, name_content(prompt)] for n, prompt in prompts.items()])
    return f"{len(prompts)} of digest {hashlib.sha256(written.encode()).hexdigest()[:16]}"


def clear(unfinished: Path) -> None:
    """Remove what a stage kept, when its table is there."""
    PartialState().wait_for_everyone()
    on_main(lambda: shutil.rmtree(unfinished, ignore_errors=True))
