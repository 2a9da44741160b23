"""Candidates that stay where they are until they are read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from diffpo.pictures import MOST_PIXELS


class Cell(NamedTuple):
    """A candidate that is still in its table: nothing is read before `read`.

    Attributes:
        folder: what it is relative to, and lies in, if it is a path.
        most: pixels that it may have, if it is a picture.
    """

    table: Dataset
    index: int
    column: str
    folder: Path
    most: int = MOST_PIXELS

    def read(self) -> Any:
        return self.table[self.index][self.column]


@dataclass(frozen=True, eq=False)
class Held:
    """A candidate that came with its record: from a stream, or as a mere path.

    Attributes:
        folder: what it is relative to, and lies in, if it is a path.
        most: pixels that it may have, if it is a picture.
    """

    value: Any
    folder: Path
    most: int = MOST_PIXELS

    def read(self) -> Any:
        return self.value
