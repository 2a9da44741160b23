"""Layouts that only texts have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffpo.refusal import Refusal
from diffpo.rows import PairRow
from diffpo.sources import Refer, Stored


@dataclass(frozen=True)
class Conversations(Stored):
    """Two whole conversations per row, as lists of messages; what they begin with alike is the prompt.

    Of a single conversation, set `rejected` to null: its prompt ends before the assistant first speaks.

    Raises:
        Refusal: if two conversations do not begin alike.
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
        sides = [record[name] or [] for name in self.needs]
        alike = shared(sides)
        first = next((i for i, message in enumerate(sides[0]) if message["role"] == "assistant"), len(sides[0]))
        begin = min(alike, first) if len(sides) == 1 or alike == len(sides[0]) else alike
        if not begin:
            raise Refusal(
                f"The conversations of row {index} begin differently, so they share no prompt; use "
                "diffpo.sources.Columns if they are answers to a column of prompts."
            )
        prompt, candidates = sides[0][:begin], tuple(side[begin:] for side in sides)
        return PairRow(index, (prompt,) * len(sides), candidates, scores=(0.0,) * len(sides), extra=record)


def shared(sides: Sequence[Sequence[Any]]) -> int:
    """How many messages all conversations begin with alike."""
    alike = 0
    for messages in zip(*sides, strict=False):
        if any(message != messages[0] for message in messages):
            break
        alike += 1
    return alike
