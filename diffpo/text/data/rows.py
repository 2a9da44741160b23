"""What every row of texts goes through: it is read, checked, and dropped if there is nothing to learn from it."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.files.records import Cell, Held
from diffpo.data.rows import PairRow, RowMap
from diffpo.data.typed import MARK, MARKED, show_value
from diffpo.text.data.completions import Candidate, Completion, join_spoken
from diffpo.text.data.messages import holds_messages, is_conversation, list_words, plain_messages, require_own_turns


@dataclass(frozen=True)
class ReadTexts(RowMap):
    """Prompts and candidates are texts, completions or messages; candidates are read out of their cells.

    Messages lose the nulls that tables fill in, and contents in parts become the texts that they are, if all are.
    Byte-order marks before texts are removed, and noted.

    Raises:
        Refusal: if a prompt or a candidate is none of these, is messages written as a text, or if a candidate repeats
            its prompt.
    """

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        found = tuple(x.read() if isinstance(x, Cell | Held) else x for x in row.candidates)
        prompts = tuple(read_cell("prompt", text, row.id) for text in row.prompts)
        candidates = tuple(read_cell("candidate", text, row.id) for text in found)
        with of_row(row.id):
            for prompt, candidate in zip(prompts, candidates, strict=True):
                if prompt is not None and candidate is not None:
                    require_own_turns(prompt, candidate)
        sides = tuple(map(drop_marks, prompts)), tuple(map(drop_marks, candidates))
        told = (MARKED,) * (sides != (prompts, candidates) and MARKED not in row.notes)
        return replace(row, prompts=sides[0], candidates=sides[1], notes=(*row.notes, *told))


def drop_marks(said: Any) -> Any:
    """A text, or messages and their parts, without the byte-order marks before their texts."""
    if isinstance(said, str):
        return said.removeprefix(MARK)
    if not isinstance(said, list) or not all(isinstance(one, Mapping) for one in said):
        return said
    return [{key: drop_marks(x) if key in ("content", "text") else x for key, x in one.items()} for one in said]


def read_cell(name: str, found: Any, row: int) -> Any:
    """What a cell holds as row maps take it: null, a text, a completion or messages.

    Args:
        name: of what it is, e.g. "prompt".
        row: its id.
    """
    if isinstance(found, str) and holds_messages(found):
        raise Refusal(
            f"Row {row} has a {name} that is messages written as a text: {found[:60]!r}; parse them (json.loads) "
            "when the table is made, so that the column holds lists of messages."
        )
    if found is None or isinstance(found, str | Completion):
        return found
    if is_conversation(found):
        with of_row(row):
            return plain_messages(found)
    raise Refusal(
        f"Row {row} has a {name} that is neither a text nor a list of messages with role and content: "
        f"{show_value(found)} ({type(found).__name__}); name other columns in data.source."
    )


def one_text(candidate: Candidate, row: PairRow) -> str:
    """What a candidate says, if it is one text that can be taken apart.

    Raises:
        Refusal: if it is several messages, or says more than a text.
    """
    if isinstance(candidate, str | Completion):
        return join_spoken(candidate)
    if len(candidate) == 1 and [*list_words(candidate[0])] == [candidate[0]["content"]]:
        return join_spoken(candidate)
    roles = ", ".join(message["role"] for message in candidate)
    raise Refusal(
        f"Row {row.id} has a candidate of messages of {roles}, and a row map takes single texts apart; keep answers "
        "of one message (text alone), or leave that map out of data.rows."
    )


@contextmanager
def of_row(row: int) -> Iterator[None]:
    """Name the row that a refusal is about."""
    try:
        yield
    except Refusal as error:
        raise Refusal(f"Row {row}: {error}") from error


@dataclass(frozen=True)
class DropEmpty(RowMap):
    """Drop rows of which a candidate is null or says nothing."""

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return row if all(said is not None and join_spoken(said).strip() for said in row.candidates) else None


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


def count_characters(row: PairRow) -> int:
    """Characters of the longest candidate with its prompt: what pairs that stand together have in common."""
    sides = zip(row.prompts, row.candidates, strict=True)
    return max(len("" if prompt is None else join_spoken(prompt)) + len(join_spoken(said)) for prompt, said in sides)
