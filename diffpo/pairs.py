"""A source seen through its row maps, and the order in which a run visits it."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets
import numpy as np
from datasets import Dataset
from torch.utils.data import Sampler

from diffpo.draws import Draws
from diffpo.rows import PairRow, RowMap
from diffpo.sources import Cell, Source


class Pick(NamedTuple):
    """One visit of one pair; `index` counts the pairs that were kept."""

    epoch: int
    index: int


@dataclass(frozen=True)
class Order(Sampler[list[Pick]]):
    """Endless batches; batch n of a process is a pure function of (seed, n), so resuming means starting at n.

    Each epoch visits every row once in a new order; a batch may straddle two epochs, nothing is dropped.

    Attributes:
        rows: pairs in an epoch.
        batch: pairs per batch on this process.
        first: number of the first batch.
    """

    rows: int
    batch: int
    seed: int
    rank: int = 0
    world: int = 1
    first: int = 0

    def __iter__(self) -> Iterator[list[Pick]]:
        shuffled, order = -1, np.arange(0)
        n = self.first
        while True:
            begin, picks = (n * self.world + self.rank) * self.batch, []
            for position in range(begin, begin + self.batch):
                epoch, i = divmod(position, self.rows)
                if epoch != shuffled:
                    shuffled, order = epoch, np.random.default_rng((self.seed, epoch)).permutation(self.rows)
                picks.append(Pick(epoch, int(order[i])))
            yield picks
            n += 1


class Pairs(ABC):
    """What `fit` trains on: encoded by the track, visited in the order it is given."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self, order: Order) -> Iterable[Any]:
        """Collated batches with `epoch` and `row` (tuples of int) and a `to(device)`."""


class PairTable:
    """Rows of a source after its row maps. Candidates stay on disk until a row's are read.

    Every row passes through the maps once here, to find which are kept, and again whenever it is visited, so memory
    holds one integer per pair whatever the size of the table.

    Attributes:
        kept: ids of the rows that no map dropped.
        dropped: how many rows each map dropped, by name.

    Raises:
        ValueError: if a column is missing, a kept row has no prompt, or no row is left.
    """

    def __init__(self, source: Source, maps: list[RowMap], seed: int):
        self.source, self.maps, self.seed = source, maps, seed
        table = source.open()
        require(table, source)
        for name, feature in table.features.items():
            if isinstance(feature, datasets.Image):
                table = table.cast_column(name, datasets.Image(decode=False))
        self.cells = {name: table.select_columns([name]) for name in source.candidates}
        heavy = {name for name, feature in table.features.items() if is_heavy(feature)} | set(source.candidates)
        self.light = table.remove_columns([name for name in table.column_names if name in heavy])
        self.dropped: Counter[str] = Counter()
        self.kept = np.fromiter(self._scan(), dtype=np.int64)
        if not len(self.kept):
            lost = ", ".join(f"{name} dropped {n}" for name, n in self.dropped.items())
            raise ValueError(
                f"No pairs left of {len(table)} rows of {source}: {lost}; change data.source or data.rows."
            )

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> PairRow:
        row = int(self.kept[index])
        mapped = self._mapped(row, self.light[row])
        assert isinstance(mapped, PairRow)
        return mapped

    def _scan(self) -> Iterator[int]:
        row, promptless = 0, []
        batches: Any = self.light.iter(batch_size=1000)
        for batch in batches:
            for values in zip(*batch.values(), strict=True):
                mapped = self._mapped(row, dict(zip(batch, values, strict=True)))
                if isinstance(mapped, RowMap):
                    self.dropped[type(mapped).__name__] += 1
                else:
                    if None in mapped.prompts:
                        promptless.append(row)
                    yield row
                row += 1
        if promptless:
            raise ValueError(
                f"{len(promptless)} of {row} rows have no prompt (it is null), the first is row {promptless[0]}; "
                "fix the data, or drop such rows with --data.rows+=diffpo.rows.DropPromptless."
            )

    def _mapped(self, index: int, record: dict[str, Any]) -> PairRow | RowMap:
        """The row as the maps leave it, or the map that dropped it."""
        row = self.source.row(index, record, lambda column: Cell(self.cells[column], index, column))
        for row_map in self.maps:
            mapped = row_map(row, Draws(self.seed, (0,), (index,)))
            if mapped is None:
                return row_map
            row = mapped
        return row


def is_heavy(feature: Any) -> bool:
    return isinstance(feature, datasets.Image) or feature in (datasets.Value("binary"), datasets.Value("large_binary"))


def require(table: Dataset, source: Source) -> None:
    """Raise a ValueError that names the columns a source needs and the table lacks."""
    if missing := [name for name in {*source.candidates, *source.needs} if name not in table.column_names]:
        raise ValueError(
            f"{type(source).__name__} needs columns {', '.join(map(repr, sorted(missing)))}, the table has "
            f"{', '.join(map(repr, table.column_names))}; name yours with the fields of diffpo.sources.Columns."
        )
