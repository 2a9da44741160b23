"""Pairs as pixels and prompts: one visit, and batches of visits."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.pair import PairLabels
from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import BrokenImage, read_image
from diffpo.data.rows import PairRow
from diffpo.data.typed import Captions
from diffpo.diffusion.data.batches import PixelBatch, PromptBatch
from diffpo.diffusion.data.framing import Framed, Framing


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
        return self.framing(decode_row(row), draws)

    def is_one(self, view: Framed) -> bool:
        first, *others = view.pixels
        return bool(others) and all(torch.equal(first, other) for other in others)

    def collate(self, examples: list[Example]) -> PixelBatch:
        return PixelBatch(
            pixels=torch.stack([example.view.pixels for example in examples], dim=1),
            time_ids=torch.stack([example.view.time_ids for example in examples], dim=1),
            prompts=prompts_by_side(examples),
            label=gather_labels(examples),
            epoch=tuple(example.epoch for example in examples),
            row=tuple(example.row.id for example in examples),
            broken=tuple(row for example in examples for row in example.broken),
            identical=tuple(row for example in examples for row in example.identical),
            user=gather_users(examples),
        )


def one_of(prompt: Any, draws: Draws) -> str:
    """The text of a prompt in one visit."""
    return prompt.drawn(draws) if isinstance(prompt, Captions) else prompt


def gather_users(examples: list[Example]) -> Float[Tensor, "b u e"] | None:
    """Tokens of whom each was judged by."""
    found = [example.user for example in examples if example.user is not None]
    return torch.stack(found) if found else None


def decode_row(row: PairRow) -> list[Image.Image]:
    """The pictures of a row.

    Raises:
        BrokenImage: if one cannot be read.
    """
    return [read_image(candidate.read(), candidate.folder, candidate.most) for candidate in row.candidates]


def prompts_by_side(examples: list[Example]) -> tuple[list[str], ...]:
    return tuple(list(side) for side in zip(*(example.prompts for example in examples), strict=True))


def gather_labels(examples: list[Example]) -> PairLabels:
    rows = [example.row for example in examples]
    return PairLabels(
        prob=torch.tensor([row.prob for row in rows]),
        score=torch.tensor([row.scores for row in rows]).T,
        weight=torch.tensor([row.weight for row in rows]),
    )


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
        broken = gather_ids(self.broken)
        pictures, enlarged = sum(gather_object([self.pictures])), sum(gather_object([self.enlarged]))
        too_small = f" {enlarged} of {pictures} pictures read were smaller than the resolution and were enlarged."
        return broken, too_small if enlarged else ""


def gather_ids(pairs: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Epochs and ids of pairs over all processes, sorted; each of them has to call it."""
    return sorted(set(gather_object(sorted(pairs))))


@dataclass(frozen=True, eq=False)
class PromptReader(Reader):
    """There is nothing to look at; pictures to come are square, whole and not mirrored."""

    def look(self, row: PairRow, draws: Draws) -> None:
        return None

    def collate(self, examples: list[Example]) -> PromptBatch:
        side = self.framing.resolution
        return PromptBatch(
            side,
            torch.tensor([side, side, 0, 0, side, side], dtype=torch.float32).expand(1, len(examples), 6).clone(),
            prompts_by_side(examples),
            gather_labels(examples),
            epoch=tuple(example.epoch for example in examples),
            row=tuple(example.row.id for example in examples),
        )
