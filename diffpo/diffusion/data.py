"""From a source of pairs to batches of pixels and prompts."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch.utils.data import DataLoader, Dataset

from diffpo.diffusion.images import Framing
from diffpo.diffusion.pixels import Example, PixelBatch, Reader, Seen, collate, loaded
from diffpo.diffusion.stream import PATIENCE, ImageStream
from diffpo.mixing import turns
from diffpo.order import Order, Pick, Share
from diffpo.pairs import Pairs, PairTable, open_tables
from diffpo.rows import DropTies, RowMap
from diffpo.sources import Source
from diffpo.streams import Stream, open_streams


@dataclass(frozen=True)
class PairData:
    """Which pairs to train on, and how they are read.

    Args:
        source: where they come from, e.g. diffpo.sources.Columns, diffpo.sources.PickAPic or diffpo.mixing.Mixed.
        rows: what relabels, reorders or drops them, in this order.
        framing: how pictures are cropped and flipped.
        caption_dropout: share of pairs whose caption is emptied, on both sides at once, so that the unconditional
            half of classifier-free guidance is tuned too.
        workers: processes per device that decode pictures; 0 decodes in the training process.
        stream: null opens a table; otherwise the source is read as a stream, and the run needs `fit.steps`.
    """

    source: Source
    rows: list[RowMap] = field(default_factory=lambda: [DropTies()])
    framing: Framing = field(default_factory=Framing)
    caption_dropout: float = 0.2
    workers: int = 4
    stream: Stream | None = None

    def __post_init__(self):
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"data.caption_dropout is a share in [0, 1], got {self.caption_dropout}.")

    def open(self, seed: int = 0) -> "ImagePairs | ImageStream":
        reader = Reader(self.framing, self.caption_dropout, seed)
        if self.stream is None:
            tables = open_tables(self.source, self.rows, seed)
            weights = self.source.shares([len(table) for table in tables])
            return ImagePairs(tables, weights, reader, self.workers)
        streams = open_streams(self.source, self.rows, seed, self.stream.buffer)
        return ImageStream(streams, self.source.shares([None for _ in streams]), reader, self.workers)


class ImagePairs(Pairs, Dataset[Example]):
    """Pairs of pictures of one or several tables, decoded when they are visited.

    Attributes:
        seen: what this process met.
    """

    def __init__(self, tables: list[PairTable], weights: tuple[float, ...], reader: Reader, workers: int):
        self.tables, self.weights, self.reader, self.workers = tables, weights, reader, workers
        self.seed, self.seen = reader.seed, Seen()

    @property
    def size(self) -> int:
        return sum(map(len, self.tables))

    def __getitem__(self, pick: Pick) -> Example:
        """The picked pair, or the next one in its table whose pictures can all be read.

        Raises:
            ValueError: if a hundred pairs in a row cannot be read.
        """
        table = self.tables[pick.table]
        offsets = range(min(PATIENCE, len(table)))
        return self.reader((pick.epoch, table[(pick.index + offset) % len(table)]) for offset in offsets)

    def first(self, n: int) -> PixelBatch:
        """The first n pairs (fewer if there are no more) as a batch, read in this process."""
        visits = islice(turns(self.weights), min(n, self.size))
        return collate([self[Pick(0, visit % len(self.tables[table]), table)] for table, visit in visits])

    def batches(self, share: Share) -> Iterator[PixelBatch]:
        loader = DataLoader(
            self,
            batch_sampler=Order(tuple(map(len, self.tables)), share, self.weights),
            collate_fn=collate,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # without one, iterating draws from the global generator and breaks resume
        )
        for batch in loaded(loader):
            self.seen.note(batch)
            yield batch

    def report(self) -> str:
        """What became of the rows, over all processes; every process has to call it."""
        broken, enlarged = self.seen.everywhere()
        unreadable = sorted({row for _, row in broken})
        rows, dropped = (
            sum(len(table.light) for table in self.tables),
            sum((t.dropped for t in self.tables), Counter()),
        )
        lost = "".join(f", {name} dropped {n}" for name, n in dropped.items())
        passed_over = f"; {len(unreadable)} with an unreadable picture were passed over: rows {unreadable[:10]}"
        return f"{self.size} of {rows} rows were kept{lost}{passed_over if unreadable else ''}.{enlarged}"
