"""Dual captions: each picture of a pair under a caption of its own."""

from dataclasses import dataclass, replace
from typing import ClassVar

from diffpo.draws import Draws
from diffpo.rows import PairRow, RowMap
from diffpo.typed import asked

FALLBACK = "without two captions kept their prompt"


@dataclass(frozen=True)
class DualCaptions(RowMap):
    """Each side's prompt becomes its picture's caption (DCPO, arXiv:2502.06023, github.com/sahsaeedi/DCPO-T2I).

    A pair that lacks one of the two captions (null or blank) keeps its prompt on both sides and is counted: a caption
    against a prompt would tell the sides apart by their text alone. Put it before maps that exchange sides or after
    them, captions stay with their pictures.

    Args:
        columns: caption of the chosen and of the rejected side, as the source orders them; scripts/caption_pairs.py
            writes these two.

    Raises:
        Refusal: if a column is missing, or a caption is no text.
    """

    script: ClassVar[str] = "scripts/caption_pairs.py"
    columns: tuple[str, str] = ("caption_chosen", "caption_rejected")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        for name in self.columns:
            row.require(name, self)
        read = asked(row.id, row.extra, *self.columns)
        captions = [text.strip() if isinstance(text, str) else text for text in read["prompts"]]
        if not all(captions):
            return replace(row, notes=(*row.notes, FALLBACK))
        prompts = tuple(captions[::-1] if row.turned else captions)
        return replace(row, prompts=prompts, notes=(*row.notes, *read.get("notes", ())))
