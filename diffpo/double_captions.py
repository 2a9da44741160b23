"""The published set of DCPO: Pick-a-Pic with a caption for each picture."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset, Value

from diffpo.refusal import Refusal
from diffpo.rows import PairRow
from diffpo.sources import PickAPic, Refer

TEXT = (Value("string"), Value("large_string"))


@dataclass(frozen=True)
class PickDoubleCaption(PickAPic):
    """`DualCPO/pick-double-caption` (arXiv:2502.06023): 20,000 pairs of Pick-a-Pic v2, captioned.

    Its captions belong to jpg_0 and jpg_1; here they come as the columns caption_chosen and caption_rejected, which
    `diffpo.captions.DualCaptions` reads, whoever won.

    Args:
        captions: columns of the captions of the first and of the second picture. The set is said to hold several kinds
            (told of the prompt or not, perturbed at three strengths), whose names are documented nowhere: if these two
            are missing, the error lists what is there.

    Raises:
        Refusal: if a column is missing.
    """

    path: str = "DualCPO/pick-double-caption"
    split: str = "default"
    captions: tuple[str, str] = ("caption_0", "caption_1")

    def open(self) -> Dataset:
        table = super().open()
        if missing := [name for name in self.captions if name not in table.column_names]:
            texts = [name for name, kind in table.features.items() if kind in TEXT]
            raise Refusal(
                f"{self.path} has no column {' and no '.join(missing)}; its columns of text are {', '.join(texts)}: "
                "name two of them as data.source.captions."
            )
        return table

    @property
    def needs(self) -> tuple[str, ...]:
        return (*super().needs, *self.captions)

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        row = super().row(index, record, lambda column: column)
        sides: tuple[str, str] = row.candidates
        chosen, rejected = self.captions if sides[0] == self.first else self.captions[::-1]
        named = {"caption_chosen": record[chosen], "caption_rejected": record[rejected]}
        return replace(row, candidates=tuple(map(cell, sides)), extra={**row.extra, **named})
