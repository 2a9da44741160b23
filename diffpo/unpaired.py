"""Data without pairs: single pictures with a verdict each, or without one, and prompts alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from diffpo.rows import PairRow
from diffpo.sources import Refer, Stored
from diffpo.typed import Field, asked


@dataclass(frozen=True)
class Captioned(Stored):
    """Pictures and their prompts, without a verdict: each is the chosen side of a list of one candidate."""

    image: str = "image"
    prompt: str = "prompt"

    @property
    def candidates(self) -> tuple[str]:
        return (self.image,)

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.prompt,)

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        prompts, picture = asked(index, record, self.prompt), cell(self.image)
        return PairRow(index, **prompts, candidates=(picture,), scores=(0.0,), extra=record)


@dataclass(frozen=True)
class Unpaired(Captioned):
    """Single pictures, each desirable or not (Diffusion-KTO, arXiv:2404.04465).

    Args:
        label: column with true or false, or 1 or 0, as number or text. A row where it is null has no label:
            `diffpo.rows.DropUnlabeled` drops it.

    Raises:
        Refusal: if a label is neither.
    """

    label: str = "label"

    @property
    def needs(self) -> tuple[str, ...]:
        return self.label, self.prompt

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        label = Field(index, self.label, record[self.label])
        desirable = label.verdict((0, 1), "Unpaired needs true or 1, false or 0.")
        return replace(super().row(index, record, cell), prob=math.nan if desirable is None else desirable)


@dataclass(frozen=True)
class PromptsOnly(Stored):
    """Prompts without pictures, for objectives that make their own (Self-NPO, arXiv:2505.11777)."""

    prompt: str = "prompt"

    @property
    def candidates(self) -> tuple[()]:
        return ()

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.prompt,)

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        return PairRow(index, **asked(index, record, self.prompt), candidates=(), scores=(0.0,), extra=record)
