"""What a completion is made of: pieces of text that are scored or not, and that belong to a turn, step or span."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Segment:
    """A piece of a completion.

    Attributes:
        scored: whether the likelihood of its tokens counts; what a tool or a user said does not.
        part: number, from 1, of the turn, step or marked span that it is; 0 if it is none.
    """

    text: str
    scored: bool = True
    part: int = 1


@dataclass(frozen=True)
class Completion:
    """A completion in pieces that follow one another; a plain text is one piece that is scored.

    The end of sequence, and what a chat template adds at the end of a turn, counts to the last piece.
    """

    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)


Candidate = str | Completion | Sequence[Message]


def join_spoken(candidate: Candidate) -> str:
    """All that a candidate says, to compare and to measure it; of messages, their contents and calls of tools."""
    if isinstance(candidate, str):
        return candidate
    if isinstance(candidate, Completion):
        return candidate.text
    return "\n".join(f"{message['content'] or ''}{message.get('tool_calls') or ''}" for message in candidate)
