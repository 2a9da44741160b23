"""From a source of pairs to batches: of pixels and prompts, or of what was encoded of them."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from torch.utils.data import Dataset

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal, require_at_least
from diffpo.data.files.pictures import BrokenImage, image_size
from diffpo.data.files.records import Cell, Held
from diffpo.data.fingerprint import of_tables
from diffpo.data.layouts import PromptsOnly
from diffpo.data.mixture import interleave_sources
from diffpo.data.pairs import PairTable, RowPairs, open_tables, rows_report
from diffpo.data.rows import DropTies, PairRow, RowMap, require_order
from diffpo.data.sampler import Grouping, PairSampler, ProcessShare, Shapes, Users, Visit
from diffpo.data.source import Source
from diffpo.data.streams import Stream, open_streams
from diffpo.data.typed import list_captions, show_value
from diffpo.diffusion.data.batches import Raw
from diffpo.diffusion.data.encoded import EncodedPairs, EncodedPicture
from diffpo.diffusion.data.encoded_reader import EncodedReader, PosteriorReader
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.readers import Example, PixelReader, PromptReader, Reader, Seen, gather_ids
from diffpo.diffusion.data.stream import PATIENCE, ImageStream
from diffpo.processes.workers import at_most, bytes_of, from_workers

Unencoded = bool | Literal["prompts"]


@dataclass(frozen=True)
class PairData:
    """Which pairs to train on, and how they are read.

    Args:
        source: where they come from, e.g. diffpo.data.Columns, diffpo.data.PickAPic, diffpo.data.Mixed or
            diffpo.diffusion.EncodedPairs.
        rows: what relabels, reorders or drops them, in this order.
        framing: how pictures are cropped and flipped.
        caption_dropout: share of pairs whose caption is emptied, on both sides at once, so that the unconditional
            half of classifier-free guidance is tuned too.
        workers: processes per device that decode pictures, 4 where there are as many cores; 0 decodes in the training
            process.
        stream: null opens a table; otherwise the source is read as a stream, and the run needs `fit.steps`.
        together: pairs of one shape that follow one another, where there are several shapes (framing.bucket_step); a
            multiple of fit.per_device_batch_size.
        per_user: visits of each user in an epoch, so that users count alike and not pairs; needs the row map
            diffpo.diffusion.ForUser. Null visits every pair.
        cycle: epochs after which the draws about each pair (noise, time, flip, emptied caption) repeat; null never
            repeats them. For diffpo.train.reference_cache.CachedReference.

    Raises:
        Refusal: if a number is out of its range, row maps stand in a wrong order, or what is asked for does not go
            together.
    """

    source: Source
    rows: list[RowMap] = field(default_factory=lambda: [DropTies()])
    framing: Framing = field(default_factory=Framing)
    caption_dropout: float = 0.2
    workers: int = field(default_factory=partial(at_most, 4))
    stream: Stream | None = None
    together: int = 16
    per_user: int | None = None
    cycle: int | None = None

    def __post_init__(self):
        require_at_least(0, **{"data.workers": self.workers})
        require_order(self.rows)
        for name, count in (("together", self.together), ("per_user", self.per_user), ("cycle", self.cycle)):
            if count is not None and count < 1:
                raise Refusal(f"data.{name} must be at least 1, got {count}.")
        if self.stream is not None and self.cycle is not None:
            raise Refusal("Draws about the pairs of a stream never repeat; set data.cycle or data.stream to null.")
        if self.per_user is not None and not any(row_map.tells_users for row_map in self.rows):
            raise Refusal("data.per_user needs to know users; add diffpo.diffusion.ForUser to data.rows.")
        if self.per_user is not None and self.stream is not None:
            raise Refusal(
                "A stream does not know how many pairs users have; set data.per_user or data.stream to null."
            )
        if not 0 <= self.caption_dropout <= 1:
            raise Refusal(f"data.caption_dropout is a share in [0, 1], got {self.caption_dropout}.")

    @property
    def is_encoded(self) -> bool:
        """Whether the pictures are encoded."""
        return all(isinstance(layout, EncodedPairs) for layout in self.source.layouts)

    @property
    def unencoded(self) -> Unencoded:
        """What a run has to encode of the pairs: pictures and prompts (True), "prompts", or nothing (False)."""
        layouts = [layout for layout in self.source.layouts if isinstance(layout, EncodedPairs)]
        if len(layouts) < len(self.source.layouts):
            return True
        return False if all(layout.stores_prompts for layout in layouts) else "prompts"

    def open(self, seed: int = 0) -> "ImagePairs | ImageStream":
        reader, maps = self.reader(seed), [*self.rows, TextPrompts()]
        if self.stream is None:
            tables = open_tables(self.source, maps, seed)
            weights = self.source.shares([len(table) for table in tables])
            return ImagePairs(tables, weights, reader, self.workers, self.together, self.cycle, self.per_user)
        streams = open_streams(self.source, maps, seed, self.stream.buffer)
        return ImageStream(streams, self.source.shares([None for _ in streams]), reader, self.workers)

    def reader(self, seed: int) -> Reader:
        """What reads a row of this source."""
        encoded = [layout for layout in self.source.layouts if isinstance(layout, EncodedPairs)]
        if not encoded:
            if self.framing.bucket_step is not None:
                raise Refusal(
                    "data.framing.bucket_step needs the shapes of all pictures before the first step; encode the "
                    "pairs (scripts/encode_pairs.py, or encoding.folder of the training script), or set it to null."
                )
            bare = [isinstance(layout, PromptsOnly) for layout in self.source.layouts]
            if any(bare) and not all(bare):
                raise Refusal("Prompts without pictures are mixed with pictures; name sources of one kind.")
            return (PromptReader if all(bare) else PixelReader)(self.framing, self.caption_dropout, seed)
        if not self.is_encoded:
            raise Refusal("Encoded pairs are mixed with pictures; encode all sources of data.source, or none.")
        if self.stream is not None:
            raise Refusal("Encoded pairs are a table that needs no memory; set data.stream to null.")
        kind = PosteriorReader if self.unencoded else EncodedReader
        return kind.of(encoded, self.framing, self.caption_dropout, seed)


def find_unencoded(read: Iterable[PairData]) -> Unencoded:
    """What a run has to encode of some pairs and others; see `PairData.unencoded`."""
    found = [data.unencoded for data in read]
    return True if True in found else "prompts" if "prompts" in found else False


class ImagePairs(RowPairs, Dataset[Example]):
    """Pairs of pictures of one or several tables, read when they are visited.

    Attributes:
        seen: what this process met.
        shapes: if the pictures of the one table are not all of one shape.

    Raises:
        Refusal: if there are several tables and several shapes.
    """

    def __init__(
        self,
        tables: list[PairTable],
        weights: tuple[float, ...],
        reader: Reader,
        workers: int,
        together: int = 16,
        cycle: int | None = None,
        per_user: int | None = None,
    ):
        self.tables, self.weights, self.reader, self.workers = tables, weights, reader, workers
        self.seed, self.seen, self.cycle = reader.seed, Seen(), cycle
        shapes = [Shapes(table.shapes, together) for table in tables if table.shapes is not None]
        if shapes and len(tables) > 1:
            raise Refusal("Sources in several shapes cannot be mixed; train apart, or encode without bucket_step.")
        self.shapes = shapes[0] if shapes else None
        if per_user and (shapes or len(tables) > 1):
            raise Refusal("Users are counted in one source of one shape; set data.per_user to null.")
        self.groups: Grouping | None = Users(tables[0].users, per_user) if per_user else self.shapes

    @property
    def row_ids(self) -> Int[np.ndarray, " n"]:
        """Ids of all pairs that may be visited."""
        return np.concatenate([table.row_ids for table in self.tables])

    @property
    def size(self) -> int:
        return self.groups.epoch if self.groups else sum(map(len, self.tables))

    @property
    def sizes(self) -> set[int]:
        return set[int]().union(*(table.sizes for table in self.tables))

    def sample(self) -> list[PairRow]:
        return [row for table in self.tables for row in table.sample()]

    def __getitem__(self, pick: Visit) -> Example:
        """The picked pair, or the next one in its table (of its shape) whose pictures can all be read.

        Raises:
            Refusal: if a hundred pairs in a row cannot be read.
        """
        table = self.tables[pick.table]
        return self.reader((pick.epoch, table[index]) for index in islice(self.onward(pick), PATIENCE))

    def onward(self, pick: Visit) -> Iterator[int]:
        """The picked pair and those after it in its table that may stand in for it, round to its beginning."""
        yield pick.index
        of = self.shapes.of if self.shapes else None
        alike = range(len(self.tables[pick.table])) if of is None else np.flatnonzero(of == of[pick.index])
        begin = bisect_right(alike, pick.index)
        for offset in range(len(alike) - 1):
            yield int(alike[(begin + offset) % len(alike)])

    def first(self, n: int) -> Raw:
        """The first n pairs of one shape (fewer if there are no more) as a batch, read in this process."""
        if self.shapes:
            alike = islice(self.onward(Visit(0, 0)), n)
            return self.reader.collate([self[Visit(0, index)] for index in alike])
        visits = islice(interleave_sources(self.weights), min(n, self.size))
        return self.reader.collate([self[Visit(0, visit % len(self.tables[table]), table)] for table, visit in visits])

    def batches(self, share: ProcessShare) -> Iterator[Raw]:
        """What `reader` collates.

        Raises:
            Refusal: if a batch would hold pictures of several shapes.
        """
        if self.shapes and self.shapes.together % share.batch:
            raise Refusal(
                f"data.together {self.shapes.together} is not a multiple of fit.per_device_batch_size {share.batch}; "
                "change one of the two."
            )
        loader = from_workers(
            self,
            self.workers,
            lambda: share.batch * bytes_of(self.first(1)),
            batch_sampler=PairSampler(tuple(map(len, self.tables)), share, self.weights, self.cycle, self.groups),
            collate_fn=self.reader.collate,
        )
        for batch in loader:
            self.seen.note(batch)
            yield batch

    def fingerprint(self) -> dict[str, Any]:
        return of_tables(self.tables)

    def report(self) -> str:
        """What became of the rows, over all processes; every process has to call it."""
        (broken, enlarged), identical = self.seen.everywhere(), gather_ids(self.seen.identical)
        passed_over = ""
        for pairs, what in ((broken, "with an unreadable picture"), (identical, "with the same picture on all sides")):
            if rows := sorted({row for _, row in pairs}):
                passed_over += f"; {len(rows)} {what} were passed over: rows {rows[:10]}"
        return f"{rows_report(self.tables, passed_over)}{enlarged}{self.reader.report()}"


@dataclass(frozen=True)
class TextPrompts(RowMap):
    """Pictures are made for texts: what all rows of pictures go through after their other maps.

    Raises:
        Refusal: if a prompt is neither a text nor several, or is a chat.
    """

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        for prompt in row.prompts:
            texts = () if prompt is None else list_captions(prompt)
            if not all(isinstance(text, str) and not is_chat(text) for text in texts):
                raise Refusal(
                    f"Row {row.id} has the prompt {show_value(prompt)}, of type {type(prompt).__name__}; pictures "
                    "are made "
                    "for plain texts, not for messages of a chat: name a column of these as prompt of the source."
                )
        return row


def is_chat(text: str) -> bool:
    """Whether a text is a list of messages written as JSON."""
    return text.lstrip().startswith(("[", "{")) and '"role"' in text and '"content"' in text


@dataclass(frozen=True)
class MinSize(RowMap):
    """Drop rows with a picture whose short side is below `side` pixels; only headers are read.

    A picture that cannot be read stays, to be counted as unreadable when it is visited. Pictures that are embedded in
    a table are read whole to find their header, so give the cheaper row maps first.

    Raises:
        Refusal: if `side` is not positive.
    """

    side: int

    def __post_init__(self):
        if self.side < 1:
            raise Refusal(f"MinSize needs a side of at least 1 pixel, got {self.side}.")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        try:
            sizes = [picture_size(candidate) for candidate in row.candidates]
        except BrokenImage:
            return row
        return row if min(map(min, sizes)) >= self.side else None


def picture_size(candidate: Cell | Held | EncodedPicture) -> tuple[int, int]:
    """Width and height of a picture as its source has it."""
    if isinstance(candidate, EncodedPicture):
        return candidate.size()
    return image_size(candidate.read(), candidate.folder, candidate.most)
