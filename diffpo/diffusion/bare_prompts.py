"""Prompts without pictures, for objectives that make their own noisy latents."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core import PairLabels
from diffpo.diffusion.pixels import Example, Reader, labels, prompts_by_side
from diffpo.draws import Draws
from diffpo.rows import PairRow


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """Collated prompts before they are encoded.

    Attributes:
        side: of the square pictures that are to come of them, in pixels.
        time_ids: what SDXL is told of these.
        prompts: one list, of the one candidate.
        epoch, row: keys of the batch's random draws.
    """

    side: int
    time_ids: Float[Tensor, "1 b 6"]
    prompts: tuple[list[str], ...]
    label: PairLabels
    epoch: tuple[int, ...]
    row: tuple[int, ...]
    broken: tuple[tuple[int, int], ...] = ()
    identical: tuple[tuple[int, int], ...] = ()
    user: None = None
    pictures: int = 0
    enlarged: int = 0

    def map(self, change: Callable[[Tensor], Tensor]) -> "PromptBatch":
        return replace(self, time_ids=change(self.time_ids), label=self.label.map(change))

    def pin_memory(self) -> "PromptBatch":
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> "PromptBatch":
        return self.map(lambda x: x.to(device, non_blocking=True))


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
            labels(examples),
            epoch=tuple(example.epoch for example in examples),
            row=tuple(example.row.id for example in examples),
        )
