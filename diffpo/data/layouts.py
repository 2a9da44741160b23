"""Where pairs come from: each source is a table (or a stream), and how one record of it becomes a `PairRow`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, Value

from diffpo.core.refusal import Refusal, require_at_least
from diffpo.data.files.pictures import MOST_PIXELS
from diffpo.data.files.tables import pictures_by_stem
from diffpo.data.rows import PairRow
from diffpo.data.source import FileLayout, Layout, Refer
from diffpo.data.typed import MARK, Field, read_prompts
from diffpo.storage.files import require_folder
from diffpo.storage.text_files import read_text


@dataclass(frozen=True)
class Columns(FileLayout):
    """Columns that say who won (binarized sets), renamed where they differ.

    Other columns (`score_chosen`, `weight`, `user_id`, ...) are there for row maps.

    Args:
        prompt_chosen: column with the chosen side's own caption, if it has one.
        prompt_rejected: the same for the rejected side.
        prob: column with P(chosen wins), 0.5 being a tie; null is none. Without such a column chosen sides win for
            sure. A row where it is null has no label: `diffpo.data.DropUnlabeled` drops it.

    Raises:
        Refusal: if such a number is not in [0.5, 1].
    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    prompt_chosen: str | None = None
    prompt_rejected: str | None = None
    prob: str | None = "prob"

    @property
    def candidates(self) -> tuple[str, str]:
        return self.chosen, self.rejected

    @property
    def needs(self) -> tuple[str, ...]:
        return self.prompt_chosen or self.prompt, self.prompt_rejected or self.prompt

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        sure = Field(index, self.prob or "", record.get(self.prob, 1.0) if self.prob else 1.0)
        if not (math.isnan(sure.reading) or 0.5 <= sure.reading <= 1):
            raise Refusal(
                f"{sure}, but P(chosen wins) is a number in [0.5, 1]; if the column says something else, set prob of "
                "the source to null or to another column."
            )
        prompts, candidates = read_prompts(index, record, *self.needs), (cell(self.chosen), cell(self.rejected))
        return PairRow(index, **prompts, candidates=candidates, prob=sure.reading, extra=record)


@dataclass(frozen=True)
class HPDv3(Columns):
    """The json files of HPDv3 (arXiv:2508.03789): `path1` is always preferred to `path2`.

    Its authors train on pairs of `confidence` 0.95 and more: the row map diffpo.data.AtLeast.
    """

    names_pictures: ClassVar[bool] = True
    chosen: str = "path1"
    rejected: str = "path2"


@dataclass(frozen=True)
class PickAPic(FileLayout):
    """The layout of Pick-a-Pic v1 and v2 (arXiv:2305.01569): two pictures, and a label that says who won.

    Rows marked `has_label = False` or `are_different = False`, in whatever type, are ties too, whatever their label.
    The original repositories were deleted; mirrors with the same columns work.

    Args:
        label: column with 1 (the first wins), 0, or 0.5 for a tie, as number or text. A row where it is null has no
            label: `diffpo.data.DropUnlabeled` drops it.

    Raises:
        Refusal: if a label is none of the three values, or a mark neither true nor false.
    """

    names_pictures: ClassVar[bool] = True
    first: str = "jpg_0"
    second: str = "jpg_1"
    label: str = "label_0"
    prompt: str = "caption"

    @property
    def candidates(self) -> tuple[str, str]:
        return self.first, self.second

    @property
    def needs(self) -> tuple[str, ...]:
        return self.label, self.prompt

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        label = 0.5 if self.is_undecided(index, record) else self.verdict(index, record)
        sides = (self.second, self.first) if label is not None and label < 0.5 else (self.first, self.second)
        prob = math.nan if label is None else max(label, 1 - label)
        prompts = read_prompts(index, record, self.prompt, self.prompt)
        return PairRow(index, **prompts, candidates=tuple(map(cell, sides)), prob=prob, extra=record)

    def is_undecided(self, index: int, record: Mapping[str, Any]) -> bool:
        marks = [Field(index, name, record.get(name)) for name in ("has_label", "are_different")]
        return any(mark.verdict((0, 1), "it has to be true or false, or 1 or 0.") == 0 for mark in marks)

    def verdict(self, index: int, record: Mapping[str, Any]) -> float | None:
        wanted = "PickAPic needs 1, 0, or 0.5 for a tie."
        return Field(index, self.label, record[self.label]).verdict((0, 0.5, 1), wanted)


@dataclass(frozen=True)
class VoteShares(PickAPic):
    """As Pick-a-Pic, but several people judged each pair: a column holds the share of votes for the first picture.

    The share is P(first wins); a row without votes has no label, and half of them is a tie.

    Args:
        label: column with the share, in [0, 1].

    Raises:
        Refusal: if a share is no such number.
    """

    label: str = "soft"

    def verdict(self, index: int, record: Mapping[str, Any]) -> float | None:
        share = Field(index, self.label, record[self.label])
        if math.isnan(share.reading):
            return None
        if not 0 <= share.reading <= 1:
            raise Refusal(f"{share}, but VoteShares needs the share of votes for the first picture, in [0, 1].")
        return share.reading


@dataclass(frozen=True)
class PickAPicShards(PickAPic):
    """Pick-a-Pic as tar shards, with the keys that diffusers' WebDataset script of Diffusion-ORPO reads."""

    first: str = "jpg_0.jpg"
    second: str = "jpg_1.jpg"
    label: str = "label_0.txt"
    prompt: str = "original_prompt.txt"


@dataclass(frozen=True)
class PairFolder(Layout):
    """A folder of your own pairs: `chosen/x.png`, `rejected/x.png` and the prompt in `x.txt`.

    Stems name the pair; png, jpg, jpeg and webp may be mixed.

    Raises:
        Refusal: if there is no such folder, one of the three is missing, or a prompt is no text
            (`diffpo.storage.text_files.read_text`).

    Args:
        images: folder that all pictures lie in, if links lead out of `path`; null is `path`.
        most_pixels: of a picture; a larger one counts as broken before it is decoded.
    """

    names_pictures: ClassVar[bool] = True
    path: str
    images: str | None = field(default=None, kw_only=True, repr=False)
    most_pixels: int = field(default=MOST_PIXELS, kw_only=True, repr=False)

    def __post_init__(self):
        require_at_least(1, most_pixels=self.most_pixels)

    @cached_property
    def folder(self) -> Path:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Path(self.images or self.path)

    @property
    def bounds(self) -> tuple[Path, int]:
        return self.folder, self.most_pixels

    def open(self) -> Dataset:
        root = Path(self.path)
        require_folder(root, "a folder of pairs")
        sides = [pictures_by_stem(root / side) for side in ("chosen", "rejected")]
        prompts = {file.stem: file for file in root.glob("*.txt")}
        stems = sorted(set().union(*sides, prompts))
        for name, have in (("chosen picture", sides[0]), ("rejected picture", sides[1]), ("prompt (.txt)", prompts)):
            if missing := [stem for stem in stems if stem not in have]:
                raise Refusal(
                    f"{len(missing)} of {len(stems)} pairs in {root} have no {name}, the first is {missing[0]!r}; "
                    "a pair x needs chosen/x.png, rejected/x.png and x.txt."
                )
        if not stems:
            raise Refusal(f"{root} holds no pairs; a pair x needs chosen/x.png, rejected/x.png and x.txt.")
        texts = [strip_blanks(read_text(prompts[stem])) for stem in stems]
        chosen, rejected = ([str(side[stem].resolve()) for stem in stems] for side in sides)
        return Dataset.from_dict({"prompt": texts, "chosen": chosen, "rejected": rejected})

    @property
    def candidates(self) -> tuple[str, str]:
        return "chosen", "rejected"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("prompt",)

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        candidates = cell("chosen"), cell("rejected")
        return PairRow(index, **read_prompts(index, record, "prompt", "prompt"), candidates=candidates, extra=record)


def strip_blanks(text: str) -> str:
    """A text without blanks at its ends; its byte-order mark stays in front, to be counted."""
    return (MARK if text.startswith(MARK) else "") + text.removeprefix(MARK).strip()


@dataclass(frozen=True)
class Captioned(FileLayout):
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
        prompts, picture = read_prompts(index, record, self.prompt), cell(self.image)
        return PairRow(index, **prompts, candidates=(picture,), scores=(0.0,), extra=record)


@dataclass(frozen=True)
class Unpaired(Captioned):
    """Single pictures, each desirable or not (Diffusion-KTO, arXiv:2404.04465).

    Args:
        label: column with true or false, or 1 or 0, as number or text. A row where it is null has no label:
            `diffpo.data.DropUnlabeled` drops it.

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
class PromptsOnly(FileLayout):
    """Prompts without pictures, for objectives that make their own (Self-NPO, arXiv:2505.11777)."""

    prompt: str = "prompt"

    @property
    def candidates(self) -> tuple[()]:
        return ()

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.prompt,)

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        return PairRow(index, **read_prompts(index, record, self.prompt), candidates=(), scores=(0.0,), extra=record)


TEXT = (Value("string"), Value("large_string"))


@dataclass(frozen=True)
class PickDoubleCaption(PickAPic):
    """`DualCPO/pick-double-caption` (arXiv:2502.06023): 20,000 pairs of Pick-a-Pic v2, captioned.

    Its captions belong to jpg_0 and jpg_1; here they come as the columns caption_chosen and caption_rejected, which
    `diffpo.data.DualCaptions` reads, whoever won.

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
