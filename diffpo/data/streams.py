"""Sources that are read as a stream: no table is built, and nobody knows how long an epoch is."""

import tarfile
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.files.records import Held
from diffpo.data.files.tables import heavy_columns, leave_undecoded, require_columns
from diffpo.data.mixture import interleave_sources
from diffpo.data.pairs import find_lack, named_if_mixed, require_equal, require_one_scorer
from diffpo.data.rows import PairRow, RowMap, apply_maps
from diffpo.data.source import Layout, Source


@dataclass(frozen=True)
class Stream:
    """Read pairs one after the other instead of opening a table: for data too large to copy, or on the hub.

    Every process and every worker reads the whole stream and decodes only its own pairs. So the order of pairs depends
    neither on their number nor on a restart, and each of them downloads and unpacks everything: it suits data that are
    costly to decode, not to read. Resuming reads again, without decoding, what it skips. The order is that of the
    installed version of `datasets`.

    Args:
        buffer: pairs, still encoded, from which the next one is drawn; each worker holds so many, and of parquet files
            one row group of each of the up to ten that it reads in turn. The order of shards is shuffled too.

    Raises:
        Refusal: if the buffer is not positive.
    """

    buffer: int = 256

    def __post_init__(self):
        if self.buffer < 1:
            raise Refusal(f"data.stream.buffer must be at least 1, got {self.buffer}.")


class StreamVisit(NamedTuple):
    """One pair that a stream gave and that was kept.

    Attributes:
        read: rows of this source so far.
        dropped: what dropped how many of them.
        noted: notes on the kept ones.
    """

    epoch: int
    row: PairRow
    source: int
    read: int
    dropped: Counter[str]
    noted: Counter[str]

    @property
    def tally(self) -> Counter[str]:
        """Rows read under "", and what dropped how many of them."""
        return Counter({"": self.read}) + self.dropped


class PairStream:
    """Rows of one layout, shuffled and seen through its row maps, epoch after epoch.

    Attributes:
        candidates: how many each row has.

    Args:
        number: which of `among` sources this is, for ids that no two share.

    Raises:
        Refusal: if there is no record, or a column is missing.
    """

    def __init__(self, source: Layout, maps: list[RowMap], seed: int, buffer: int, number: int = 0, among: int = 1):
        self.source, self.maps, self.seed, self.buffer = source, maps, seed, buffer
        self.number, self.among = number, among
        self.stream = leave_undecoded(source.stream())
        self.heavy = (heavy_columns(self.stream.features) | set(source.candidates)) - set(source.needs)
        first = next(self._read(self.stream), None)
        if first is None:
            raise Refusal(f"{source} holds no records.")
        require_columns(list(first), [*source.candidates, *source.needs], source)
        row = self._row(0, first)
        self.candidates = len(row.candidates)
        apply_maps(row, maps, Draws(seed, (0,), (row.id,)))  # a column that a map needs is missed at once

    def visits(self) -> Iterator[StreamVisit]:
        """Every kept pair of every epoch.

        Raises:
            Refusal: if an epoch leaves no pair, or the stream breaks off.
        """
        read, dropped, noted = 0, Counter[str](), Counter[str]()
        for epoch in count():
            kept = 0
            shuffled = self.stream.shuffle(
                generator=np.random.default_rng((self.seed, epoch)), buffer_size=self.buffer
            )
            for position, record in enumerate(self._read(shuffled)):
                read += 1
                row = self._row(position, record)
                found = apply_maps(row, self.maps, Draws(self.seed, (epoch,), (row.id,)))
                lacks = find_lack(found) if isinstance(found, PairRow) else None
                if isinstance(found, PairRow) and lacks is None:
                    kept += 1
                    noted = noted + Counter(found.notes) if found.notes else noted
                    yield StreamVisit(epoch, found, self.number, read, dropped, noted)
                else:
                    by = f"a null {lacks}" if lacks else type(found).__name__
                    dropped = dropped + Counter([by])  # anew: visits keep the old one
            if not kept:
                said = stream_report(Counter({"": read}) + dropped)
                raise Refusal(f"No pairs left in an epoch of {self.source}: {said}; change data.source or data.rows.")

    def _read(self, stream: Any) -> Iterator[dict[str, Any]]:
        # Batches of one: a plain loop would deal the shards out among the workers of a DataLoader.
        n, batches = 0, stream.iter(batch_size=1)
        try:
            for batch in batches:
                yield {name: values[0] for name, values in batch.items()}
                n += 1
        except (OSError, ValueError, tarfile.TarError) as error:
            reason = " ".join(str(error).split())
            raise Refusal(
                f"The stream of {self.source} broke off after {n} records of an epoch ({reason[:300]}); fetch the "
                "damaged file again, or save it as UTF-8 (without data.stream, it is named), or check the network."
            ) from error

    def _row(self, position: int, record: dict[str, Any]) -> PairRow:
        light = {name: value for name, value in record.items() if name not in self.heavy}
        row = self.source.row(position, light, lambda column: Held(record[column], *self.source.bounds))
        return replace(row, id=position * self.among + self.number)


def open_streams(source: Source, maps: list[RowMap], seed: int, buffer: int) -> list[PairStream]:
    """The streams of a source's layouts.

    Raises:
        Refusal: if one cannot be used (it is named), or if they differ in the number of candidates per row.
    """
    require_one_scorer(source, maps)
    among = len(source.layouts)
    streams: list[PairStream] = []
    for number, layout in enumerate(source.layouts):
        with named_if_mixed(layout, source):
            streams.append(PairStream(layout, maps, seed, buffer, number, among))
    require_equal([stream.candidates for stream in streams], source)
    return streams


class Window:
    """A look at the coming visits of mixed streams, from a position that only moves forward.

    Attributes:
        tally: what `Visit.tally` says of the pairs passed so far, over all sources.
    """

    def __init__(self, streams: list[PairStream], weights: tuple[float, ...]):
        walks = [stream.visits() for stream in streams]
        self._coming = (next(walks[source]) for source, _ in interleave_sources(weights))
        self._ahead, self._passed, self.position = deque[StreamVisit](), dict[int, StreamVisit](), 0

    @property
    def tally(self) -> Counter[str]:
        return sum((visit.tally for visit in self._passed.values()), Counter())

    @property
    def noted(self) -> Counter[str]:
        return sum((visit.noted for visit in self._passed.values()), Counter())

    def move(self, position: int) -> None:
        while self.position < position:
            passed = self._ahead.popleft() if self._ahead else next(self._coming)
            self._passed[passed.source] = passed
            self.position += 1

    def look(self) -> Iterator[StreamVisit]:
        """The visit at the position, and then those after it of the same source."""
        for i in count():
            if i == len(self._ahead):
                self._ahead.append(next(self._coming))
            if self._ahead[i].source == self._ahead[0].source:
                yield self._ahead[i]


def stream_report(tally: Counter[str]) -> str:
    """What became of the rows of a stream."""
    return ", ".join([f"{tally['']} rows were read", *(f"{name} dropped {n}" for name, n in tally.items() if name)])
