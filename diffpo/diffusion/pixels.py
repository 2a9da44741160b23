"""Pairs as pixels and prompts: one visit, and batches of visits."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import gather_object
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from diffpo.core import PairLabels
from diffpo.diffusion.images import Framed, Framing
from diffpo.draws import Draws
from diffpo.pictures import BrokenImage, read_image
from diffpo.refusal import Refusal
from diffpo.rows import PairRow
from diffpo.typed import Captions


@dataclass(frozen=True, eq=False)
class PixelBatch:
    """Collated pairs (or rows of k candidates) before they are encoded.

    Attributes:
        pixels: 0 to 255.
        time_ids: what SDXL is told of each picture, see `Framed`.
        prompts: one list per candidate.
        epoch, row: keys of the batch's random draws.
        broken: epochs and ids of pairs passed over because a picture could not be read.
        identical: the same of pairs whose sides are the same picture.
        user: tokens of whom each pair was judged by; None if the network hears no users.
    """

    pixels: UInt8[Tensor, "k b 3 h w"]
    time_ids: Float[Tensor, "k b 6"]
    prompts: tuple[list[str], ...]
    label: PairLabels
    epoch: tuple[int, ...]
    row: tuple[int, ...]
    broken: tuple[tuple[int, int], ...] = ()
    identical: tuple[tuple[int, int], ...] = ()
    user: Float[Tensor, "b u e"] | None = None

    @property
    def pictures(self) -> int:
        return self.time_ids[..., 0].numel()

    @property
    def enlarged(self) -> int:
        return count_enlarged(self.time_ids)

    def map(self, change: Callable[[Tensor], Tensor]) -> "PixelBatch":
        user = None if self.user is None else change(self.user)
        pixels, time_ids = change(self.pixels), change(self.time_ids)
        return replace(self, pixels=pixels, time_ids=time_ids, label=self.label.map(change), user=user)

    def pin_memory(self) -> "PixelBatch":
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> "PixelBatch":
        return self.map(lambda x: x.to(device, non_blocking=True))


@dataclass(frozen=True, eq=False)
class Example:
    """One visit of one pair, read.

    Attributes:
        view: what its reader made of the pictures.
        user: tokens of whom it was judged by; None if the network hears no users.
    """

    view: Any
    prompts: tuple[str, ...]
    row: PairRow
    epoch: int
    broken: tuple[tuple[int, int], ...]
    identical: tuple[tuple[int, int], ...]
    user: Float[Tensor, "u e"] | None


@dataclass(frozen=True, eq=False)
class Reader(ABC):
    """Turns rows into what a batch is made of; `look` and `collate` say what that is."""

    framing: Framing
    caption_dropout: float
    seed: int

    @abstractmethod
    def look(self, row: PairRow, draws: Draws) -> Any:
        """The pictures of a row in one visit.

        Raises:
            BrokenImage: if one cannot be read.
        """

    def is_one(self, view: Any) -> bool:
        """Whether all pictures of a view are the same."""
        return False

    @abstractmethod
    def collate(self, examples: list[Example]) -> Any:
        """A batch for `fit`, with `epoch`, `row`, `broken`, `identical`, `pictures` and `enlarged`."""

    def report(self) -> str:
        """What else is to be known of the prompts; every process has to call it."""
        return ""

    def __call__(self, visits: Iterable[tuple[int, PairRow]]) -> Example:
        """The first of these (epoch, row) whose pictures can all be read, and are not all the same for one prompt.

        Raises:
            Refusal: if there is none.
        """
        broken, identical, reason, where = [], [], None, None
        for epoch, row in visits:
            draws = Draws(self.seed, (epoch,), (row.id,))
            try:
                view = self.look(row, draws)
            except BrokenImage as error:
                broken.append((epoch, row.id))
                reason, where = error, row.candidates[0].folder.resolve()
                continue
            if len(set(row.prompts)) == 1 and self.is_one(view):
                identical.append((epoch, row.id))
                continue
            emptied = draws.uniform("caption_dropout").item() < self.caption_dropout
            prompts = tuple("" if emptied else one_of(prompt, draws) for prompt in row.prompts)
            user = None if row.shots is None else row.shots.read(draws)
            return Example(view, prompts, row, epoch, tuple(broken), tuple(identical), user)
        if identical:
            raise Refusal(
                f"None of {len(broken) + len(identical)} pairs in a row can be learned from: {len(broken)} cannot be "
                f"read, and {len(identical)} have the same picture on all sides, the last of them row "
                f"{identical[-1][1]}; name columns that differ."
            )
        raise Refusal(
            f"None of {len(broken)} pairs in a row could be read, the last is row {broken[-1][1]} ({reason}); "
            f"check that data.source names columns of pictures and that paths are relative to {where}."
        )


@dataclass(frozen=True, eq=False)
class PixelReader(Reader):
    """Decodes and frames the pictures of a pair."""

    def look(self, row: PairRow, draws: Draws) -> Framed:
        return self.framing(decoded(row), draws)

    def is_one(self, view: Framed) -> bool:
        first, *others = view.pixels
        return bool(others) and all(torch.equal(first, other) for other in others)

    def collate(self, examples: list[Example]) -> PixelBatch:
        return PixelBatch(
            pixels=torch.stack([example.view.pixels for example in examples], dim=1),
            time_ids=torch.stack([example.view.time_ids for example in examples], dim=1),
            prompts=prompts_by_side(examples),
            label=labels(examples),
            epoch=tuple(example.epoch for example in examples),
            row=tuple(example.row.id for example in examples),
            broken=tuple(row for example in examples for row in example.broken),
            identical=tuple(row for example in examples for row in example.identical),
            user=users(examples),
        )


def one_of(prompt: Any, draws: Draws) -> str:
    """The text of a prompt in one visit."""
    return prompt.drawn(draws) if isinstance(prompt, Captions) else prompt


def users(examples: list[Example]) -> Float[Tensor, "b u e"] | None:
    """Tokens of whom each was judged by."""
    found = [example.user for example in examples if example.user is not None]
    return torch.stack(found) if found else None


def decoded(row: PairRow) -> list[Image.Image]:
    """The pictures of a row.

    Raises:
        BrokenImage: if one cannot be read.
    """
    return [read_image(candidate.read(), candidate.folder, candidate.most) for candidate in row.candidates]


def prompts_by_side(examples: list[Example]) -> tuple[list[str], ...]:
    return tuple(list(side) for side in zip(*(example.prompts for example in examples), strict=True))


def labels(examples: list[Example]) -> PairLabels:
    rows = [example.row for example in examples]
    return PairLabels(
        prob=torch.tensor([row.prob for row in rows]),
        score=torch.tensor([row.scores for row in rows]).T,
        weight=torch.tensor([row.weight for row in rows]),
    )


def count_enlarged(time_ids: Float[Tensor, "k b 6"]) -> int:
    """How many pictures are smaller than what they were cropped to, in height or in width."""
    return int((time_ids[..., :2] < time_ids[..., 4:]).any(-1).sum())


class Seen:
    """What this process met while it read.

    Attributes:
        broken: epochs and ids of pairs that were passed over because a picture could not be read.
        identical: the same of pairs whose sides are the same picture.
        pictures: how many were read.
        enlarged: how many of them were smaller than the resolution.
    """

    def __init__(self):
        self.broken: set[tuple[int, int]] = set()
        self.identical: set[tuple[int, int]] = set()
        self.pictures = self.enlarged = 0

    def note(self, batch: Any) -> None:
        """Of what a `Reader` collates."""
        self.broken.update(batch.broken)
        self.identical.update(batch.identical)
        self.pictures += batch.pictures
        self.enlarged += batch.enlarged

    def everywhere(self) -> tuple[list[tuple[int, int]], str]:
        """Broken pairs, and a sentence about enlarged pictures, over all processes; each of them has to call it."""
        broken = gathered(self.broken)
        pictures, enlarged = sum(gather_object([self.pictures])), sum(gather_object([self.enlarged]))
        too_small = f" {enlarged} of {pictures} pictures read were smaller than the resolution and were enlarged."
        return broken, too_small if enlarged else ""


def gathered(pairs: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Epochs and ids of pairs over all processes, sorted; each of them has to call it."""
    return sorted(set(gather_object(sorted(pairs))))
