"""Where pairs come from: each source is a table (`datasets.Dataset`) and how one record of it becomes a `PairRow`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset
from datasets.exceptions import DatasetGenerationError

from diffpo.hub import reaching
from diffpo.rows import PairRow

FILES = {".parquet": "parquet", ".arrow": "arrow", ".jsonl": "json", ".json": "json", ".csv": "csv"}


@dataclass(frozen=True, eq=False)
class Cell:
    """A candidate that is still in its table: nothing is read before `read`."""

    table: Dataset
    index: int
    column: str

    def read(self) -> Any:
        return self.table[self.index][self.column]


class Source(ABC):
    """A table of pairs. `cell(column)` refers to a candidate without reading it."""

    @abstractmethod
    def open(self) -> Dataset:
        """The whole table, memory-mapped."""

    @property
    def folder(self) -> Path:
        """What relative paths of images are relative to."""
        return Path()

    @property
    @abstractmethod
    def candidates(self) -> tuple[str, str]:
        """Columns that hold the two candidates."""

    @property
    @abstractmethod
    def needs(self) -> tuple[str, ...]:
        """The other columns that `row` reads."""

    @abstractmethod
    def row(self, index: int, record: Mapping[str, Any], cell: Callable[[str], Cell]) -> PairRow: ...


@dataclass(frozen=True)
class Columns(Source):
    """A hub id, a folder or a file whose columns say who won (binarized sets), renamed where they differ.

    Other columns (`score_chosen`, `weight`, `user_id`, ...) are there for row maps.

    Args:
        path: hub id; folder with parquet files or written by `save_to_disk`; or a parquet, arrow, jsonl or csv file.
            Images are bytes, `datasets.Image`, or paths relative to the folder of the data.
        prompt_chosen: column with the chosen side's own caption, if it has one.
        prompt_rejected: the same for the rejected side.
        revision: of a hub id.
    """

    path: str
    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    prompt_chosen: str | None = None
    prompt_rejected: str | None = None
    split: str = "train"
    revision: str | None = None

    def open(self) -> Dataset:
        return open_table(self.path, self.split, self.revision)

    @property
    def folder(self) -> Path:
        return folder_of(self.path)

    @property
    def candidates(self) -> tuple[str, str]:
        return self.chosen, self.rejected

    @property
    def needs(self) -> tuple[str, ...]:
        return self.prompt_chosen or self.prompt, self.prompt_rejected or self.prompt

    def row(self, index: int, record: Mapping[str, Any], cell: Callable[[str], Cell]) -> PairRow:
        chosen, rejected = (record[name] for name in self.needs)
        return PairRow(index, (chosen, rejected), (cell(self.chosen), cell(self.rejected)), extra=record)


@dataclass(frozen=True)
class PickAPic(Source):
    """The layout of Pick-a-Pic v1 and v2: `jpg_0`, `jpg_1`, `label_0` (1, 0, or 0.5 for a tie), `caption`.

    Rows marked `has_label = False` or `are_different = False` are ties too.

    Args:
        path: as for `Columns`. The original repositories were deleted; mirrors with the same columns work.

    Raises:
        ValueError: if a label is none of the three values.
    """

    path: str
    split: str = "train"
    revision: str | None = None

    def open(self) -> Dataset:
        return open_table(self.path, self.split, self.revision)

    @property
    def folder(self) -> Path:
        return folder_of(self.path)

    @property
    def candidates(self) -> tuple[str, str]:
        return "jpg_0", "jpg_1"

    @property
    def needs(self) -> tuple[str, ...]:
        return "label_0", "caption"

    def row(self, index: int, record: Mapping[str, Any], cell: Callable[[str], Cell]) -> PairRow:
        label, caption = record["label_0"], record["caption"]
        if label not in (0, 0.5, 1):
            raise ValueError(f"Row {index} has label_0 = {label!r}; PickAPic needs 1, 0, or 0.5 for a tie.")
        undecided = record.get("has_label") is False or record.get("are_different") is False
        first_wins = PairRow(index, (caption, caption), (cell("jpg_0"), cell("jpg_1")), extra=record)
        if label == 0.5 or undecided:
            return PairRow(index, first_wins.prompts, first_wins.candidates, prob=0.5, extra=record)
        return first_wins if label == 1 else first_wins.swapped()


@dataclass(frozen=True)
class PairFolder(Source):
    """A folder of your own pairs: `chosen/x.png`, `rejected/x.png` and the prompt in `x.txt`.

    Stems name the pair; png, jpg, jpeg and webp may be mixed.

    Raises:
        ValueError: if a chosen picture lacks its rejected one or its prompt, or the other way round.
    """

    path: str

    def open(self) -> Dataset:
        root = Path(self.path)
        sides = [pictures_by_stem(root / side) for side in ("chosen", "rejected")]
        prompts = {file.stem: file for file in root.glob("*.txt")}
        stems = sorted(set().union(*sides, prompts))
        for name, have in (("chosen picture", sides[0]), ("rejected picture", sides[1]), ("prompt (.txt)", prompts)):
            if missing := [stem for stem in stems if stem not in have]:
                raise ValueError(
                    f"{len(missing)} of {len(stems)} pairs in {root} have no {name}, the first is {missing[0]!r}; "
                    "a pair x needs chosen/x.png, rejected/x.png and x.txt."
                )
        if not stems:
            raise ValueError(f"{root} holds no pairs; a pair x needs chosen/x.png, rejected/x.png and x.txt.")
        texts = [prompts[stem].read_text(encoding="utf-8").strip() for stem in stems]
        chosen, rejected = ([str(side[stem].resolve()) for stem in stems] for side in sides)
        return Dataset.from_dict({"prompt": texts, "chosen": chosen, "rejected": rejected})

    @property
    def candidates(self) -> tuple[str, str]:
        return "chosen", "rejected"

    @property
    def needs(self) -> tuple[str, ...]:
        return ("prompt",)

    def row(self, index: int, record: Mapping[str, Any], cell: Callable[[str], Cell]) -> PairRow:
        prompts = record["prompt"], record["prompt"]
        return PairRow(index, prompts, (cell("chosen"), cell("rejected")), extra=record)


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """Pictures of a folder by name without ending.

    Raises:
        ValueError: if two of them share it.
    """
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*")):
        if file.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"}:
            if file.stem in found:
                raise ValueError(f"{file} and {found[file.stem].name} are both {file.stem!r}; keep one of them.")
            found[file.stem] = file
    return found


def folder_of(path: str) -> Path:
    return Path(path).parent if Path(path).is_file() else Path(path)


def open_table(path: str, split: str, revision: str | None) -> Dataset:
    """A hub id, folder or file as one memory-mapped table."""
    with reaching(path, "a table of pairs"):
        local = Path(path)
        if local.is_file():
            if local.suffix not in FILES:
                raise ValueError(f"files are {', '.join(FILES)}")
            return loaded(FILES[local.suffix], data_files=str(local), split="train")
        if (local / "state.json").exists() or (local / "dataset_dict.json").exists():
            saved = datasets.load_from_disk(path)
            if isinstance(saved, Dataset):
                return saved
            if split not in saved:
                raise ValueError(f"data.source.split is {split!r}, there are {', '.join(map(str, saved))}.")
            return saved[split]
        return loaded(path, split=split, revision=revision)


def loaded(*args: Any, **kwargs: Any) -> Dataset:
    """`datasets.load_dataset`, whose two ways to say that a file cannot be parsed become ValueErrors."""
    try:
        return datasets.load_dataset(*args, **kwargs)
    except StopIteration as error:
        raise ValueError("it is empty") from error
    except DatasetGenerationError as error:
        raise ValueError(str(error.__cause__)) from error
