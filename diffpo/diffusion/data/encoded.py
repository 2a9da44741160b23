"""Encoded pairs: a source like any other, whose candidates are the VAE's posteriors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, Features, List, Value

from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import BrokenImage
from diffpo.data.rows import PairRow
from diffpo.data.source import Layout, Refer
from diffpo.data.typed import read_prompts
from diffpo.diffusion.data.encoding import EncodingSummary
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.prompt_states import PromptStates
from diffpo.storage import arrow
from diffpo.storage.digests import read_json, require_written
from diffpo.storage.files import require_folder
from diffpo.storage.ledger import require_same

SUMMARY = "encoding.json"
PAIRS = "pairs"
ENCODE = "encode the pairs with scripts/encode_pairs.py"
EXTRA = "extra."  # in front of the columns of the source
VARIANTS = ("", "flipped_")  # in front of the columns of the crop as it is, and mirrored
BINARY, NUMBER = Value("binary"), Value("float64")


def columns(k: int, variants: Sequence[str], extra: Features, several: bool = False) -> Features:
    """Of the table of pairs; latents are mean, then deviation.

    Args:
        extra: the light columns of the source.
        several: whether some rows have several captions, so that all have lists of them.
    """
    light = {"id": Value("int64"), "prob": NUMBER, "weight": NUMBER, "shape": Value("int32")}
    prompt = List(Value("string")) if several else Value("string")
    light |= dict.fromkeys(of_sides("prompt", k), prompt) | dict.fromkeys(of_sides("score", k), NUMBER)
    light |= {f"{EXTRA}{name}": feature for name, feature in extra.items()}
    latents = {name: BINARY for variant in variants for name in [*latents_of(k, variant), f"{variant}time_ids"]}
    return Features(light | latents)


def of_sides(what: str, k: int) -> list[str]:
    """Columns of what each picture of a row has."""
    return [f"{what}_{side}" for side in range(k)]


def latents_of(k: int, variant: str) -> list[str]:
    return of_sides(f"{variant}latents", k)


def describe_framing(framing: Framing) -> dict[str, Any]:
    """What posteriors depend on of a framing; the flip is stored as a second variant."""
    return {"resolution": framing.resolution, "crop": "center", "bucket_step": framing.bucket_step}


class Posterior(NamedTuple):
    """One picture; `time_ids` as of `Framed`."""

    mean: np.ndarray
    std: np.ndarray
    time_ids: np.ndarray


class Side(NamedTuple):
    """One of the pictures that each row has, as its source orders them.

    Attributes:
        columns: of posterior and time ids, as the picture is and, if that was encoded too, mirrored.
        dtype: of posteriors.
        shapes: of their means, by number.
    """

    number: int
    columns: tuple[tuple[str, str], ...]
    dtype: np.dtype
    shapes: Sequence[Sequence[int]]
    folder: Path


class EncodedPicture(NamedTuple):
    """A candidate that is read when it is visited."""

    side: Side
    record: Mapping[str, Any]
    cell: Refer

    @property
    def folder(self) -> Path:
        return self.side.folder

    def read(self, mirrored: bool) -> Posterior:
        """Raises BrokenImage if there was nothing to encode."""
        latents, time_ids = (self.cell(column).read() for column in self.side.columns[mirrored])
        if latents is None:
            raise BrokenImage("it could not be read when the pairs were encoded")
        shape = self.side.shapes[self.record["shape"]]
        mean, std = np.frombuffer(latents, self.side.dtype).reshape(2, *shape)
        return Posterior(mean, std, np.frombuffer(time_ids, np.float32).reshape(-1, 6)[self.side.number])

    def size(self) -> tuple[int, int]:
        """Width and height before the crop; raises BrokenImage if there was nothing to encode."""
        height, width, *_ = self.read(mirrored=False).time_ids.tolist()
        return int(width), int(height)


class Extra(Mapping[str, Any]):
    """What the source had beside pictures, prompts and label; read when it is asked for."""

    __slots__ = ("record",)

    def __init__(self, record: Mapping[str, Any]):
        self.record = record

    def __getitem__(self, name: str) -> Any:
        return self.record[f"{EXTRA}{name}"]

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(EXTRA) for name in self.record if name.startswith(EXTRA))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class EncodedPairs(Layout):
    """Pairs that scripts/encode_pairs.py has encoded: training on them loads neither VAE nor text encoders.

    If it was told to encode pictures alone, text encoders stay in the run.

    They are the rows as their source gave them, with the ids that they had there, so row maps, order and every random
    draw are those of training on the source.

    Args:
        path: folder that the script wrote.

    Raises:
        Refusal: if the folder holds no such pairs, they are not finished, or they were framed otherwise.
    """

    path: str

    @cached_property
    def folder(self) -> Path:  # pyright: ignore[reportIncompatibleVariableOverride]
        return Path(self.path)

    @cached_property
    def encoding(self) -> EncodingSummary:
        """What `diffpo.diffusion.encode.encode.encode_pairs` says of them."""
        require_folder(self.folder, "encoded pairs")
        file = self.folder / SUMMARY
        if not file.exists():
            raise Refusal(
                f"{self.path} holds no encoded pairs, or not all of them ({SUMMARY} is missing); {ENCODE}, which goes "
                "on where it was stopped."
            )
        return read_json(file)

    @property
    def variants(self) -> tuple[str, ...]:
        return VARIANTS if self.encoding["flip"] else VARIANTS[:1]

    def open(self) -> Dataset:
        files = self.encoding["files"]
        names = [name for what, count in files.items() for name in arrow.name_table_files(what, count)]
        require_written(self.folder, names, f"{ENCODE} once more, which mends that")
        return arrow.open_files(self.folder, PAIRS, files[PAIRS])

    def files(self) -> list[Path]:
        return sorted(self.folder.glob(f"*{arrow.ENDING}"))

    @property
    def stores_prompts(self) -> bool:
        """Whether prompts were encoded, too."""
        return "encode" not in self.encoding  # which says that pictures alone were

    def prompts(self) -> PromptStates:
        """What was encoded of the prompts."""
        return PromptStates(self.folder, self.encoding)

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple(
            name
            for variant in self.variants
            for name in [*latents_of(self.encoding["k"], variant), f"{variant}time_ids"]
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return "id", *self._prompts, "prob", *self._scores, "weight", "shape"

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        return PairRow(
            record["id"],
            **read_prompts(record["id"], record, *self._prompts),
            candidates=tuple([EncodedPicture(side, record, cell) for side in self._sides]),
            prob=record["prob"],
            scores=tuple([record[name] for name in self._scores]),
            weight=record["weight"],
            extra=Extra(record),
        )

    @cached_property
    def _prompts(self) -> list[str]:
        return of_sides("prompt", self.encoding["k"])

    @cached_property
    def _scores(self) -> list[str]:
        return of_sides("score", self.encoding["k"])

    @cached_property
    def _sides(self) -> tuple[Side, ...]:
        k, shapes, dtype = self.encoding["k"], self.encoding["shapes"], np.dtype(self.encoding["latents"])
        columns = [[(name, f"{variant}time_ids") for name in latents_of(k, variant)] for variant in self.variants]
        return tuple(
            Side(side, of_side, dtype, shapes, self.folder) for side, of_side in enumerate(zip(*columns, strict=True))
        )

    def ids(self, rows: int) -> int:
        return self.encoding["ids"]

    def shapes(self, table: Dataset) -> np.ndarray | None:
        if len(self.encoding["shapes"]) == 1:
            return None
        of = np.asarray(table.data.column("shape").to_numpy())
        return np.where(of < 0, np.bincount(of[of >= 0]).argmax(), of)  # what cannot be read stands with the most

    def require_framing(self, framing: Framing) -> None:
        """Raise a Refusal, saying what differs, if the pairs were encoded for another framing."""
        if framing.random_crop:
            raise Refusal(f"{self.path} holds center crops; set data.framing.random_crop to false.")
        wanted = describe_framing(framing)
        remedy = f"{ENCODE} for this run, or set data.framing to what they were encoded for"
        require_same({key: self.encoding[key] for key in wanted}, wanted, self.folder, remedy)
        if framing.flip and not self.encoding["flip"]:
            raise Refusal(
                f"{self.path} holds no mirrored pictures; set data.framing.flip to false, or {ENCODE} and "
                "--data.framing.flip true."
            )
