"""Which pairs are kept from training and judged during it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

from diffpo.pairs import Pairs
from diffpo.refusal import Refusal
from diffpo.rows import ForTraining, ForValidation
from diffpo.sources import Source
from diffpo.validation import Validation


@dataclass(frozen=True)
class Split(ABC):
    """A validation split: the objective's metrics on pairs that are never trained on, as `validation/...`.

    Args:
        share: of the prompts that is held out, all their pairs together; a hash of the prompt decides, so the split is
            the same in every run.
        source: pairs from elsewhere instead, e.g. a set's own validation split; then nothing is held out.
        every: optimiser steps between judgements.
        pairs: how many are judged.

    Raises:
        Refusal: if the share is not between 0 and 1, or a count is not positive.
    """

    share: float = 0.05
    source: Source | None = None
    every: int = 100
    pairs: int = 256

    def __post_init__(self):
        if not 0 < self.share < 1:
            raise Refusal(f"validation.share must lie between 0 and 1, got {self.share}.")
        if self.every < 1 or self.pairs < 1:
            raise Refusal(f"validation.every and validation.pairs must be at least 1, got {self}.")

    @abstractmethod
    def plain(self, data: Any) -> Any:
        """The data (a track's `data`, with `source`, `rows` and `open`) read without randomness."""

    def held_out(self, data: Any) -> Any:
        """The pairs to judge: same row maps, no randomness."""
        held = self.plain(data)
        if self.source is None:
            return replace(held, rows=[ForValidation(self.share), *held.rows])
        return replace(held, source=self.source)

    def split(self, data: Any, *opening: Any, **named: Any) -> tuple[Pairs, Validation]:
        """Pairs to train on, and those to judge.

        Args:
            opening, named: what `data.open` takes, the seed first.
        """
        kept = data if self.source else replace(data, rows=[ForTraining(self.share), *data.rows])
        judged = self.held_out(data).open(*opening, **named)
        return kept.open(*opening, **named), Validation(judged, self.every, self.pairs)
