"""Pairs as pixels and prompts: one visit, and batches of visits."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import gather_object
from jaxtyping import Float, UInt8
from torch import Tensor

from diffpo.core import PairLabels
from diffpo.diffusion.images import BrokenImage, Framed, Framing, read_image
from diffpo.draws import Draws
from diffpo.rows import PairRow


@dataclass(frozen=True, eq=False)
class PixelBatch:
    """Collated pairs (or rows of k candidates) before they are encoded.

    Attributes:
        pixels: 0 to 255.
        time_ids: what SDXL is told of each picture, see `Framed`.
        prompts: one list per candidate.
        epoch, row: keys of the batch's random draws.
        broken: epochs and ids of pairs passed over because a picture could not be read.
    """

    pixels: UInt8[Tensor, "k b 3 h w"]
    time_ids: Float[Tensor, "k b 6"]
    prompts: tuple[list[str], ...]
    label: PairLabels
    epoch: tuple[int, ...]
    row: tuple[int, ...]
    broken: tuple[tuple[int, int], ...] = ()

    def map(self, change: Callable[[Tensor], Tensor]) -> "PixelBatch":
        return replace(self, pixels=change(self.pixels), time_ids=change(self.time_ids), label=self.label.map(change))

    def pin_memory(self) -> "PixelBatch":
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> "PixelBatch":
        return self.map(lambda x: x.to(device, non_blocking=True))


@dataclass(frozen=True, eq=False)
class Example:
    """One visit of one pair, read and framed."""

    framed: Framed
    prompts: tuple[str, ...]
    row: PairRow
    epoch: int
    broken: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Reader:
    """Decodes and frames the pictures of a pair."""

    framing: Framing
    caption_dropout: float
    seed: int

    def __call__(self, visits: Iterable[tuple[int, PairRow]]) -> Example:
        """The first of these (epoch, row) whose pictures can all be read.

        Raises:
            ValueError: if there is none.
        """
        broken, reason, where = [], None, None
        for epoch, row in visits:
            try:
                pictures = [read_image(candidate.read(), candidate.folder) for candidate in row.candidates]
            except BrokenImage as error:
                broken.append((epoch, row.id))
                reason, where = error, row.candidates[0].folder.resolve()
                continue
            draws = Draws(self.seed, (epoch,), (row.id,))
            emptied = draws.uniform("caption_dropout").item() < self.caption_dropout
            prompts: Any = tuple("" if emptied else prompt for prompt in row.prompts)  # never null by now
            return Example(self.framing(pictures, draws), prompts, row, epoch, tuple(broken))
        raise ValueError(
            f"None of {len(broken)} pairs in a row could be read, the last is row {broken[-1][1]} ({reason}); "
            f"check that data.source names columns of pictures and that paths are relative to {where}."
        )


def collate(examples: list[Example]) -> PixelBatch:
    rows = [example.row for example in examples]
    label = PairLabels(
        prob=torch.tensor([row.prob for row in rows]),
        score=torch.tensor([row.scores for row in rows]).T,
        weight=torch.tensor([row.weight for row in rows]),
    )
    return PixelBatch(
        pixels=torch.stack([example.framed.pixels for example in examples], dim=1),
        time_ids=torch.stack([example.framed.time_ids for example in examples], dim=1),
        prompts=tuple(list(side) for side in zip(*(example.prompts for example in examples), strict=True)),
        label=label,
        epoch=tuple(example.epoch for example in examples),
        row=tuple(row.id for row in rows),
        broken=tuple(row for example in examples for row in example.broken),
    )


class Seen:
    """What this process met while it read.

    Attributes:
        broken: epochs and ids of pairs that were passed over because a picture could not be read.
        pictures: how many were read.
        enlarged: how many of them were smaller than the resolution.
    """

    def __init__(self):
        self.broken: set[tuple[int, int]] = set()
        self.pictures = self.enlarged = 0

    def note(self, batch: PixelBatch) -> None:
        self.broken.update(batch.broken)
        self.pictures += batch.time_ids[..., 0].numel()
        self.enlarged += int((batch.time_ids[..., :2].amin(-1) < batch.time_ids[..., 4]).sum())

    def everywhere(self) -> tuple[list[tuple[int, int]], str]:
        """Broken pairs, and a sentence about enlarged pictures, over all processes; each of them has to call it."""
        broken = sorted(set(gather_object(sorted(self.broken))))
        pictures, enlarged = sum(gather_object([self.pictures])), sum(gather_object([self.enlarged]))
        too_small = f" {enlarged} of {pictures} pictures read were smaller than the resolution and were enlarged."
        return broken, too_small if enlarged else ""


def loaded(loader: Iterable) -> Iterator:
    """What a loader gives, with an error of a worker in one line: torch puts the whole traceback into its message."""
    try:
        yield from loader
    except ValueError as error:
        raise ValueError(str(error).splitlines()[-1].removeprefix("ValueError: ")) from error
