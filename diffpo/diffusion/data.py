"""From a table of pairs to batches of pixels and prompts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate.utils import gather_object
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffpo.core import PairLabels
from diffpo.diffusion.images import BrokenImage, Framing, read_image
from diffpo.draws import Draws
from diffpo.pairs import Order, Pairs, PairTable, Pick
from diffpo.rows import DropTies, PairRow, RowMap
from diffpo.sources import Source

PATIENCE = 100


@dataclass(frozen=True)
class PairData:
    """Which pairs to train on, and how they are read.

    Args:
        source: where they come from, e.g. diffpo.sources.Columns or diffpo.sources.PickAPic.
        rows: what relabels, reorders or drops them, in this order.
        framing: how pictures are cropped and flipped.
        caption_dropout: share of pairs whose caption is emptied, on both sides at once, so that the unconditional
            half of classifier-free guidance is tuned too.
        workers: processes per device that decode pictures; 0 decodes in the training process.
    """

    source: Source
    rows: list[RowMap] = field(default_factory=lambda: [DropTies()])
    framing: Framing = field(default_factory=Framing)
    caption_dropout: float = 0.2
    workers: int = 4

    def __post_init__(self):
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"data.caption_dropout is a share in [0, 1], got {self.caption_dropout}.")

    def open(self, seed: int = 0) -> "ImagePairs":
        return ImagePairs(self, PairTable(self.source, self.rows, seed), seed)


@dataclass(frozen=True, eq=False)
class PixelBatch:
    """Collated pairs before they are encoded.

    Attributes:
        pixels: 0 to 255.
        prompts: those of the chosen and those of the rejected side.
        epoch, row: keys of the batch's random draws.
        broken: ids of pairs passed over because a picture could not be read.
    """

    pixels: UInt8[Tensor, "2 b 3 r r"]
    prompts: tuple[list[str], list[str]]
    label: PairLabels
    epoch: tuple[int, ...]
    row: tuple[int, ...]
    broken: tuple[int, ...] = ()

    def map(self, change: Callable[[Tensor], Tensor]) -> "PixelBatch":
        return replace(self, pixels=change(self.pixels), label=self.label.map(change))

    def pin_memory(self) -> "PixelBatch":
        return self.map(Tensor.pin_memory)


@dataclass(frozen=True, eq=False)
class Example:
    """One visit of one pair, read and framed."""

    pixels: UInt8[Tensor, "2 3 r r"]
    prompts: tuple[str, str]
    row: PairRow
    epoch: int
    broken: tuple[int, ...]


class ImagePairs(Pairs, Dataset[Example]):
    """Pairs of pictures, decoded when they are visited.

    Attributes:
        broken: ids of the pairs that this process passed over because a picture could not be read.
    """

    def __init__(self, data: PairData, table: PairTable, seed: int):
        self.data, self.table, self.seed = data, table, seed
        self.broken: set[int] = set()

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, pick: Pick) -> Example:
        """The picked pair, or the next one in the table whose two pictures can be read.

        Raises:
            ValueError: if a hundred pairs in a row cannot be read.
        """
        broken, folder = [], self.table.source.folder
        for offset in range(min(PATIENCE, len(self))):
            row = self.table[(pick.index + offset) % len(self)]
            try:
                pair = read_image(row.candidates[0].read(), folder), read_image(row.candidates[1].read(), folder)
            except BrokenImage as error:
                broken.append(row.id)
                reason = error
                continue
            draws = Draws(self.seed, (pick.epoch,), (row.id,))
            emptied = draws.uniform("caption_dropout").item() < self.data.caption_dropout
            prompts: Any = ("", "") if emptied else row.prompts  # never null: PairTable refuses rows without a prompt
            return Example(self.data.framing(pair, draws), prompts, row, pick.epoch, tuple(broken))
        raise ValueError(
            f"None of {len(broken)} pairs in a row could be read, the last is row {broken[-1]} ({reason}); "
            f"check that data.source names columns of pictures and that paths are relative to {folder.resolve()}."
        )

    def first(self, n: int) -> PixelBatch:
        """The first n pairs of the table as a batch, read in this process."""
        return collate([self[Pick(0, index)] for index in range(n)])

    def report(self) -> str:
        """What became of the rows, over all processes; every process has to call it."""
        table, unreadable = self.table, sorted(set(gather_object(sorted(self.broken))))
        dropped = "".join(f", {name} dropped {n}" for name, n in table.dropped.items())
        passed_over = f"; {len(unreadable)} with an unreadable picture were passed over: rows {unreadable[:10]}"
        broken = passed_over if unreadable else ""
        return f"{len(table)} of {len(table.light)} rows were kept{dropped}{broken}."

    def batches(self, order: Order) -> Iterator[PixelBatch]:
        loader = DataLoader(
            self,
            batch_sampler=order,
            collate_fn=collate,
            num_workers=self.data.workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # without one, iterating draws from the global generator and breaks resume
        )
        for batch in loader:
            self.broken.update(batch.broken)
            yield batch


def collate(examples: list[Example]) -> PixelBatch:
    rows = [example.row for example in examples]
    label = PairLabels(
        prob=torch.tensor([row.prob for row in rows]),
        score=torch.tensor([row.scores for row in rows]).T,
        weight=torch.tensor([row.weight for row in rows]),
    )
    return PixelBatch(
        pixels=torch.stack([example.pixels for example in examples], dim=1),
        prompts=([example.prompts[0] for example in examples], [example.prompts[1] for example in examples]),
        label=label,
        epoch=tuple(example.epoch for example in examples),
        row=tuple(row.id for row in rows),
        broken=tuple(row for example in examples for row in example.broken),
    )
