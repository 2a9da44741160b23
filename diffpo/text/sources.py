"""Layouts that only texts have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffpo.refusal import Refusal
from diffpo.rows import PairRow
from diffpo.sources import Refer, Stored
from diffpo.text.completions import Message
from diffpo.text.messages import holds_messages, is_conversation, plain_messages


@dataclass(frozen=True)
class Conversations(Stored):
    """Two whole conversations per row, as lists of messages; what they begin with alike is the prompt.

    Of a single conversation, set `rejected` to null: its prompt ends before the assistant first speaks.

    Raises:
        Refusal: if a conversation is none, or if two do not begin alike.
    """

    chosen: str = "chosen"
    rejected: str | None = "rejected"

    @property
    def candidates(self) -> tuple[str, ...]:
        return ()

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.chosen,) if self.rejected is None else (self.chosen, self.rejected)

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        sides = [conversation(record[name], index, name) for name in self.needs]
        alike = shared(sides)
        first = next((i for i, message in enumerate(sides[0]) if message["role"] == "assistant"), len(sides[0]))
        begin = min(alike, first) if alike == min(map(len, sides)) else alike
        if any(len(side) == begin for side in sides):
            raise Refusal(f"A conversation of row {index} has no answer; fix or leave out such rows.")
        asks = any(side[begin]["role"] == "user" for side in sides) and sides[0][begin - 1]["role"] != "assistant"
        if not begin or asks:
            raise Refusal(
                f"The conversations of row {index} begin differently, so they share no prompt that was answered; use "
                "diffpo.sources.Columns if they are answers to a column of prompts."
            )
        prompt, candidates = sides[0][:begin], tuple(side[begin:] for side in sides)
        return PairRow(index, (prompt,) * len(sides), candidates, scores=(0.0,) * len(sides), extra=record)


def conversation(found: Any, index: int, column: str) -> list[Message]:
    """What a cell holds, as messages written in one way."""
    if isinstance(found, str):
        remedy = (
            "parse them (json.loads) when the table is made"
            if holds_messages(found)
            else "split each into messages with role and content, or into texts for the columns prompt, chosen and "
            "rejected of diffpo.sources.Columns (the prompt is what both begin with, up to the last answer)"
        )
        raise Refusal(f"Row {index} has a text in {column}, {found[:60]!r}, Conversations takes messages; {remedy}.")
    if not is_conversation(found):
        raise Refusal(
            f"Row {index} has no conversation in {column}: {str(found)[:60]!r} ({type(found).__name__}) is no list of "
            "messages with role and content; fix or leave out such rows, or name another column."
        )
    try:
        return plain_messages(found)
    except Refusal as error:
        raise Refusal(f"Row {index}: {error}") from error


def shared(sides: Sequence[Sequence[Any]]) -> int:
    """How many messages all conversations begin with alike."""
    alike = 0
    for messages in zip(*sides, strict=False):
        if any(message != messages[0] for message in messages):
            break
        alike += 1
    return alike
