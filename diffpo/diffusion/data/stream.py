"""Pairs of pictures from a stream."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from typing import Any

from accelerate.utils import gather_object
from torch.utils.data import IterableDataset, get_worker_info

from diffpo.data.fingerprint import of_streams
from diffpo.data.pairs import RowPairs
from diffpo.data.rows import PairRow
from diffpo.data.sampler import ProcessShare
from diffpo.data.streams import PairStream, Window, stream_report
from diffpo.diffusion.data.batches import PixelBatch
from diffpo.diffusion.data.readers import Reader, Seen, gather_ids
from diffpo.processes.workers import from_workers

PATIENCE = 100
LOOKED_AT = 64  # first rows of each stream


class ImageStream(RowPairs):
    """Pairs of pictures of one or several streams, in the order of the streams; what it costs, `Stream` says.

    Attributes:
        seen: what this process met.
    """

    def __init__(self, streams: list[PairStream], weights: tuple[float, ...], reader: Reader, workers: int):
        self.streams, self.weights, self.reader, self.workers = streams, weights, reader, workers
        self.seed, self.seen, self.tally = reader.seed, Seen(), Counter[str]()
        self.noted = Counter[str]()

    @property
    def size(self) -> None:
        return None

    @property
    def sizes(self) -> set[int]:
        return {stream.candidates for stream in self.streams}

    def sample(self) -> list[PairRow]:
        return [visit.row for stream in self.streams for visit in islice(stream.visits(), LOOKED_AT)]

    def first(self, n: int) -> PixelBatch:
        """The first n pairs as a batch, read in this process."""
        return next(iter(StreamBatches(self, ProcessShare(n, self.seed)))).batch

    def batches(self, share: ProcessShare) -> Iterator[PixelBatch]:
        loader = from_workers(StreamBatches(self, share), self.workers, partial(self.size_of, share), batch_size=None)
        for told in loader:
            self.tally, self.noted = told.tally, told.noted
            self.seen.note(told.batch)
            yield told.batch

    def size_of(self, share: ProcessShare) -> int:
        """Bytes of a batch: its pixels, for which nothing has to be read."""
        return share.batch * self.streams[0].candidates * 3 * self.reader.framing.resolution**2

    def fingerprint(self) -> dict[str, Any]:
        return of_streams([stream.source for stream in self.streams])

    def report(self) -> str:
        """What became of the rows, over all processes; every process has to call it."""
        (broken, enlarged), identical = self.seen.everywhere(), gather_ids(self.seen.identical)
        everywhere = gather_object([(self.tally, self.noted)])
        tally, noted = max(everywhere, key=lambda of_process: of_process[0][""])  # of the process that is furthest
        notes = "".join(f"; {n} {note}" for note, n in noted.items())
        passed_over = f", {len(broken)} with an unreadable picture were passed over" if broken else ""
        if identical:
            passed_over += f", {len(identical)} with the same picture on all sides were passed over"
        return f"Of the stream, {stream_report(tally)}{passed_over}{notes}.{enlarged}"


@dataclass(frozen=True, eq=False)
class Told:
    """A batch, and what had been read and lost when it was full."""

    batch: PixelBatch
    tally: Counter[str]
    noted: Counter[str]

    def pin_memory(self) -> "Told":
        return replace(self, batch=self.batch.pin_memory())


class StreamBatches(IterableDataset[Told]):
    """The batches of one process; of W workers, worker w makes every W-th of them, starting with the w-th."""

    def __init__(self, pairs: ImageStream, share: ProcessShare):
        self.pairs, self.share = pairs, share

    def __iter__(self) -> Iterator[Told]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        window = Window(self.pairs.streams, self.pairs.weights)
        for n in count(self.share.first + worker, workers):
            examples = []
            for position in self.share.positions(n):
                window.move(position)
                visits = ((visit.epoch, visit.row) for visit in islice(window.look(), PATIENCE))
                examples.append(self.pairs.reader(visits))
            window.move(self.share.positions(n).stop)
            yield Told(self.pairs.reader.collate(examples), window.tally, window.noted)
