"""What every row of texts goes through: it is read, checked, and dropped if there is nothing to learn from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffpo.cells import Cell, Held
from diffpo.draws import Draws
from diffpo.refusal import Refusal
from diffpo.rows import PairRow, RowMap
from diffpo.text.completions import Completion, spoken


@dataclass(frozen=True)
class ReadTexts(RowMap):
    """Candidates are what their cells hold, so that other maps find texts, messages or completions.

    Raises:
        Refusal: if a prompt or a candidate is none of these.
    """

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        candidates = tuple(x.read() if isinstance(x, Cell | Held) else x for x in row.candidates)
        for name, texts in (("prompt", row.prompts), ("candidate", candidates)):
            for text in texts:
                if not (text is None or isinstance(text, str | Completion) or is_conversation(text)):
                    raise Refusal(
                        f"Row {row.id} has a {name} that is neither a text nor a list of messages with role and "
                        f"content: {str(text)[:60]!r} ({type(text).__name__}); name other columns in data.source."
                    )
        return replace(row, candidates=candidates)


def is_conversation(text: Any) -> bool:
    if not isinstance(text, Sequence) or not text:
        return False
    return all(isinstance(message, Mapping) and {"role", "content"} <= message.keys() for message in text)


@dataclass(frozen=True)
class DropEmpty(RowMap):
    """Drop rows of which a candidate is null or says nothing."""

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return row if all(said is not None and spoken(said).strip() for said in row.candidates) else None


@dataclass(frozen=True)
class DropIdentical(RowMap):
    """Drop rows whose candidates all say the same: there is nothing to prefer."""

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        sides = list(zip(row.prompts, row.candidates, strict=True))
        return None if len(sides) > 1 and all(side == sides[0] for side in sides) else row


@dataclass(frozen=True)
class RequireNumbers(RowMap):
    """Refuse weights, scores and labels that are no finite numbers; without scores, each candidate's is zero.

    Raises:
        Refusal: if there is one, or if there are more or fewer scores than candidates.
    """

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        for name, number in (("prob", row.prob), ("weight", row.weight), *(("score", x) for x in row.scores)):
            if not math.isfinite(number):
                raise Refusal(
                    f"Row {row.id} has {name} {number}, which is no finite number; fix the column, or drop such rows."
                )
        if len(row.scores) == len(row.candidates):
            return row
        if any(row.scores):
            raise Refusal(
                f"Row {row.id} has {len(row.scores)} scores and {len(row.candidates)} candidates; the row map that "
                "changes the one has to change the other."
            )
        return replace(row, scores=(0.0,) * len(row.candidates))


def length(row: PairRow) -> int:
    """Characters of the longest candidate with its prompt: what pairs that stand together have in common."""
    sides = zip(row.prompts, row.candidates, strict=True)
    return max(len("" if prompt is None else spoken(prompt)) + len(spoken(said)) for prompt, said in sides)
