"""Candidates that stay where they are until they are read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset


class Cell(NamedTuple):
    """A candidate that is still in its table: nothing is read before `read`.

    Attributes:
        folder: what it is relative to, if it is a relative path.
    """

    table: Dataset
    index: int
    column: str
    folder: Path

    def read(self) -> Any:
        return self.table[self.index][self.column]


@dataclass(frozen=True, eq=False)
class Held:
    """A candidate that came with its record: from a stream, or as a mere path.

    Attributes:
        folder: what it is relative to, if it is a relative path.
    """

    value: Any
    folder: Path

    def read(self) -> Any:
        return self.value
