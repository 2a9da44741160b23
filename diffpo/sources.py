"""Where pairs come from: each source is a table (or a stream), and how one record of it becomes a `PairRow`."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset, IterableDataset

from diffpo.files import require_folder
from diffpo.pictures import MOST_PIXELS
from diffpo.refusal import Refusal, require_at_least
from diffpo.rows import PairRow
from diffpo.tables import folder_of, local_files, open_stream, open_table, pictures_by_stem, undecoded
from diffpo.text_files import read_text
from diffpo.typed import MARK, Field, asked

Refer = Callable[[str], Any]


class Source(ABC):
    """What a config names as the source of pairs: one layout, or several that are mixed (`diffpo.mixing.Mixed`)."""

    @property
    @abstractmethod
    def layouts(self) -> "tuple[Layout, ...]": ...

    @abstractmethod
    def shares(self, sizes: Sequence[int | None]) -> tuple[float, ...]:
        """Share of the visits that each layout gets, in any unit, given how many pairs it holds."""


class Layout(Source):
    """One table of pairs. New layouts of data subclass this.

    Attributes:
        names_pictures: whether its candidates are pictures by its very form; a path would be no text to learn from.
    """

    names_pictures: ClassVar[bool] = False

    @property
    def layouts(self) -> "tuple[Layout, ...]":
        return (self,)

    def shares(self, sizes: Sequence[int | None]) -> tuple[float, ...]:
        return (1.0,)

    @abstractmethod
    def open(self) -> Dataset:
        """The whole table, memory-mapped."""

    def stream(self) -> IterableDataset:
        """The same records one after the other; here from the opened table."""
        return self.open().to_iterable_dataset()

    @property
    def folder(self) -> Path:
        """What relative paths of images are relative to."""
        return Path()

    def files(self) -> list[Path]:
        """Files of the table that are on this machine and were not made of others here; pictures of their own are none
        of them."""
        return []

    @property
    def bounds(self) -> tuple[Path, int]:
        """The folder that pictures lie in if they are paths, and pixels that one may have."""
        return self.folder, MOST_PIXELS

    @property
    @abstractmethod
    def candidates(self) -> tuple[str, ...]:
        """Columns that hold a candidate each; they are read one cell at a time."""

    @property
    @abstractmethod
    def needs(self) -> tuple[str, ...]:
        """The other columns that `row` reads."""

    def cells(self, table: Dataset) -> dict[str, Dataset]:
        """For each column of candidates, a table in which row i belongs to pair i."""
        return {name: undecoded(table).select_columns([name]) for name in self.candidates}

    @abstractmethod
    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        """One record; `cell(column)` refers to a candidate without reading it."""

    def ids(self, rows: int) -> int:
        """Ids that so many rows take up; a row's id is its position, where nothing else is said."""
        return rows

    def shapes(self, table: Dataset) -> np.ndarray | None:
        """Number of the shape of each row's pictures; None if all have one."""
        return None


@dataclass(frozen=True)
class Stored(Layout):
    """A layout of something that `datasets` reads.

    Args:
        path: hub id; folder of parquet files or tar shards, or written by `save_to_disk`; a parquet, arrow, json,
            jsonl, csv or tar file; or a glob of such files ("shards/*.tar"). Images are bytes, `datasets.Image`, or
            paths. Tar shards (in WebDataset format) are copied into the cache of `datasets` unless data.stream is set.
        split: of a hub id, or of a folder written by `save_to_disk`.
        revision: of a hub id.
        images: folder that all images lie in if the data name them by paths, which are absolute or relative to it;
            null is the folder of the data. Whatever leads out of it, by a link too, is not read.
        most_pixels: of an image; a larger one counts as broken before it is decoded.

    Raises:
        Refusal: if `most_pixels` is not positive.
    """

    path: str
    split: str = "train"
    revision: str | None = None
    images: str | None = None
    most_pixels: int = field(default=MOST_PIXELS, kw_only=True, repr=False)

    def __post_init__(self):
        require_at_least(1, most_pixels=self.most_pixels)

    @property
    def bounds(self) -> tuple[Path, int]:
        return self.folder, self.most_pixels

    def open(self) -> Dataset:
        return open_table(self.path, self.split, self.revision)

    def stream(self) -> IterableDataset:
        return open_stream(self.path, self.split, self.revision)

    def files(self) -> list[Path]:
        return local_files(self.path)

    @cached_property
    def folder(self) -> Path:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Path(self.images) if self.images else folder_of(self.path)


@dataclass(frozen=True)
class Columns(Stored):
    """Columns that say who won (binarized sets), renamed where they differ.

    Other columns (`score_chosen`, `weight`, `user_id`, ...) are there for row maps.

    Args:
        prompt_chosen: column with the chosen side's own caption, if it has one.
        prompt_rejected: the same for the rejected side.
        prob: column with P(chosen wins), 0.5 being a tie; null is none. Without such a column chosen sides win for
            sure. A row where it is null has no label: `diffpo.rows.DropUnlabeled` drops it.

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
        prompts, candidates = asked(index, record, *self.needs), (cell(self.chosen), cell(self.rejected))
        return PairRow(index, **prompts, candidates=candidates, prob=sure.reading, extra=record)


@dataclass(frozen=True)
class HPDv3(Columns):
    """The json files of HPDv3 (arXiv:2508.03789): `path1` is always preferred to `path2`.

    Its authors train on pairs of `confidence` 0.95 and more: the row map diffpo.rows.AtLeast.
    """

    names_pictures: ClassVar[bool] = True
    chosen: str = "path1"
    rejected: str = "path2"


@dataclass(frozen=True)
class PickAPic(Stored):
    """The layout of Pick-a-Pic v1 and v2 (arXiv:2305.01569): two pictures, and a label that says who won.

    Rows marked `has_label = False` or `are_different = False`, in whatever type, are ties too, whatever their label.
    The original repositories were deleted; mirrors with the same columns work.

    Args:
        label: column with 1 (the first wins), 0, or 0.5 for a tie, as number or text. A row where it is null has no
            label: `diffpo.rows.DropUnlabeled` drops it.

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
        sides = (self.second, self.first) if label == 0 else (self.first, self.second)
        prob = math.nan if label is None else max(label, 1 - label)
        prompts = asked(index, record, self.prompt, self.prompt)
        return PairRow(index, **prompts, candidates=tuple(map(cell, sides)), prob=prob, extra=record)

    def is_undecided(self, index: int, record: Mapping[str, Any]) -> bool:
        marks = [Field(index, name, record.get(name)) for name in ("has_label", "are_different")]
        return any(mark.verdict((0, 1), "it has to be true or false, or 1 or 0.") == 0 for mark in marks)

    def verdict(self, index: int, record: Mapping[str, Any]) -> float | None:
        wanted = "PickAPic needs 1, 0, or 0.5 for a tie."
        return Field(index, self.label, record[self.label]).verdict((0, 0.5, 1), wanted)


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
            (`diffpo.text_files.read_text`).

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
        texts = [stripped(read_text(prompts[stem])) for stem in stems]
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
        return PairRow(index, **asked(index, record, "prompt", "prompt"), candidates=candidates, extra=record)


def stripped(text: str) -> str:
    """A text without blanks at its ends; its byte-order mark stays in front, to be counted."""
    return (MARK if text.startswith(MARK) else "") + text.removeprefix(MARK).strip()
