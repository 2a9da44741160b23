"""What a source is: a table or a stream of it, and the layout that makes rows of its records."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset, IterableDataset

from diffpo.core.refusal import require_at_least
from diffpo.data.files.pictures import MOST_PIXELS
from diffpo.data.files.tables import folder_of, leave_undecoded, local_files, open_stream, open_table
from diffpo.data.rows import PairRow

Refer = Callable[[str], Any]


class Source(ABC):
    """What a config names as the source of pairs: one layout, or several that are mixed (`diffpo.data.Mixed`)."""

    @property
    @abstractmethod
    def layouts(self) -> "tuple[Layout, ...]": ...

    @abstractmethod
    def shares(self, sizes: Sequence[int | None]) -> tuple[float, ...]:
        """Share of the visits that each layout gets, in any unit, given how many pairs it holds."""


class Layout(Source):
    """One table of pairs. New layouts of data subclass this.

    Attributes:
        names_pictures: whether its candidates are pictures by its very form; a path would be no text to learn from.
    """

    names_pictures: ClassVar[bool] = False

    @property
    def layouts(self) -> "tuple[Layout, ...]":
        return (self,)

    def shares(self, sizes: Sequence[int | None]) -> tuple[float, ...]:
        return (1.0,)

    @abstractmethod
    def open(self) -> Dataset:
        """The whole table, memory-mapped."""

    def stream(self) -> IterableDataset:
        """The same records one after the other; here from the opened table."""
        return self.open().to_iterable_dataset()

    @property
    def folder(self) -> Path:
        """What relative paths of images are relative to."""
        return Path()

    def files(self) -> list[Path]:
        """Files of the table that are on this machine and were not made of others here; pictures of their own are none
        of them."""
        return []

    @property
    def bounds(self) -> tuple[Path, int]:
        """The folder that pictures lie in if they are paths, and pixels that one may have."""
        return self.folder, MOST_PIXELS

    @property
    @abstractmethod
    def candidates(self) -> tuple[str, ...]:
        """Columns that hold a candidate each; they are read one cell at a time."""

    @property
    @abstractmethod
    def needs(self) -> tuple[str, ...]:
        """The other columns that `row` reads."""

    def cells(self, table: Dataset) -> dict[str, Dataset]:
        """For each column of candidates, a table in which row i belongs to pair i."""
        return {name: leave_undecoded(table).select_columns([name]) for name in self.candidates}

    @abstractmethod
    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        """One record; `cell(column)` refers to a candidate without reading it."""

    def ids(self, rows: int) -> int:
        """Ids that so many rows take up; a row's id is its position, where nothing else is said."""
        return rows

    def shapes(self, table: Dataset) -> np.ndarray | None:
        """Number of the shape of each row's pictures; None if all have one."""
        return None


@dataclass(frozen=True)
class FileLayout(Layout):
    """A layout of something that `datasets` reads.

    Args:
        path: hub id; folder of parquet files or tar shards, or written by `save_to_disk`; a parquet, arrow, json,
            jsonl, csv or tar file; or a glob of such files ("shards/*.tar"). Images are bytes, `datasets.Image`, or
            paths. Tar shards (in WebDataset format) are copied into the cache of `datasets` unless data.stream is set.
        split: of a hub id, or of a folder written by `save_to_disk`.
        revision: of a hub id.
        images: folder that all images lie in if the data name them by paths, which are absolute or relative to it;
            null is the folder of the data. Whatever leads out of it, by a link too, is not read.
        most_pixels: of an image; a larger one counts as broken before it is decoded.

    Raises:
        Refusal: if `most_pixels` is not positive.
    """

    path: str
    split: str = "train"
    revision: str | None = None
    images: str | None = None
    most_pixels: int = field(default=MOST_PIXELS, kw_only=True, repr=False)

    def __post_init__(self):
        require_at_least(1, most_pixels=self.most_pixels)

    @property
    def bounds(self) -> tuple[Path, int]:
        return self.folder, self.most_pixels

    def open(self) -> Dataset:
        return open_table(self.path, self.split, self.revision)

    def stream(self) -> IterableDataset:
        return open_stream(self.path, self.split, self.revision)

    def files(self) -> list[Path]:
        return local_files(self.path)

    @cached_property
    def folder(self) -> Path:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Path(self.images) if self.images else folder_of(self.path)
