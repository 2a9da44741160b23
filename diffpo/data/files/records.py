"""Rows of a table one by one, of which only those columns are read that somebody asks for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from diffpo.data.files.pictures import MOST_PIXELS

TOGETHER = 1000  # rows of a column that are read at a time


def records(table: Dataset) -> Iterator["Record"]:
    """The rows of a table, one by one."""
    alone: dict[str, Dataset] = {}
    names = table.column_names
    for begin in range(0, len(table), TOGETHER):
        columns = LazyColumns(table, names, slice(begin, begin + TOGETHER), alone)
        for index in range(min(TOGETHER, len(table) - begin)):
            yield Record(columns, index)


class Record(Mapping[str, Any]):
    """One row of a table, of which only those columns are read that somebody asks for."""

    __slots__ = ("columns", "index")

    def __init__(self, columns: "LazyColumns", index: int):
        self.columns, self.index = columns, index

    def __getitem__(self, name: str) -> Any:
        return self.columns[name][self.index]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns.names)

    def __len__(self) -> int:
        return len(self.columns.names)


class LazyColumns(dict[str, list[Any]]):
    """Columns of some rows, each read when it is first asked for.

    Args:
        alone: tables of one column each, kept from slice to slice: to make one takes as long as to read thousands of
            rows.
    """

    def __init__(self, table: Dataset, names: list[str], rows: slice, alone: dict[str, Dataset]):
        self.table, self.names, self.rows, self.alone = table, names, rows, alone

    def __missing__(self, name: str) -> list[Any]:
        if name not in self.names:
            raise KeyError(name)
        if name not in self.alone:
            self.alone[name] = self.table.select_columns([name])
        self[name] = self.alone[name][self.rows][name]
        return self[name]


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
