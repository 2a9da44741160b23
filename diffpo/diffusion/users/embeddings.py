"""Embeddings of users as files (PPD, arXiv:2501.06655): written shard by shard, read slice by slice."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffpo.core.refusal import Refusal
from diffpo.storage.digests import read_json, require_written
from diffpo.storage.files import name_failed_writes, require_folder
from diffpo.storage.ledger import REMEDY, settle_file

SUMMARY = "users.json"
INDEX = "users.parquet"
ENDING = ".safetensors"
EMBED = "scripts/embed_users.py"
TENSOR = "embeddings"
PROFILE = "profile"
TOGETHER = 1000  # lines of the index that are written, or of whose profiles are read, at a time
COLUMNS = {
    "user_id": pa.string(),
    "chunk": pa.int32(),
    "pair_ids": pa.list_(pa.int64()),
    PROFILE: pa.string(),
    "model_id": pa.string(),
    "revision": pa.string(),
    "file": pa.string(),
    "row": pa.int32(),
    "layers": pa.int32(),
    "width": pa.int32(),
}

TYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}

Precision = Literal["bfloat16", "float32", "float16"]
UserId = str | int


@dataclass(frozen=True)
class UserEmbeddings:
    """What scripts/embed_users.py wrote. Embeddings stay on disk, mapped into memory, until one is read.

    A user has an embedding for each support chunk: a few of the user's pairs that stand in no other chunk. Of the
    index (one line per chunk) all but the profiles is held in memory. Ids of users may be numbers in the source; here
    they are texts, and both are understood.

    Args:
        path: folder that the script wrote.

    Raises:
        Refusal: when it is first read, if the folder holds no embeddings of users, or not all of them.
    """

    path: str

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What `diffpo.diffusion.users.embed.embed_users` says of them."""
        require_folder(self.path, "embeddings of users")
        file = Path(self.path) / SUMMARY
        if not file.exists():
            raise Refusal(
                f"{self.path} holds no embeddings of users, or not all of them ({SUMMARY} is missing); run {EMBED}, "
                "which goes on where it was stopped."
            )
        return read_json(file)

    @property
    def tokens(self) -> int:
        """Of an embedding: layers + 1 of a chat model."""
        return self.summary["tokens"]

    @property
    def width(self) -> int:
        return self.summary["width"]

    @cached_property
    def users(self) -> tuple[str, ...]:
        return tuple(self._lines)

    def knows(self, user_id: UserId) -> bool:
        return str(user_id) in self._lines

    def chunks(self, user_id: UserId) -> tuple[int, ...]:
        """Numbers of a user's support chunks; one whose pictures could not be read is left out.

        Raises:
            Refusal: if there is no such user.
        """
        return tuple(self._of(user_id))

    def read(self, user_id: UserId, chunk: int) -> Float[Tensor, "tokens width"]:
        """One embedding, in fp32.

        Raises:
            Refusal: if there is no such user, or no such chunk.
        """
        line = self._line(user_id, chunk)
        file, row = (self._index.column(name)[line].as_py() for name in ("file", "row"))
        with safe_open(Path(self.path) / file, "pt") as tensors:
            return tensors.get_slice(TENSOR)[row].float()

    def pair_ids(self, user_id: UserId, chunk: int) -> tuple[int, ...]:
        """Ids of the rows of the source that the embedding was made of; the user must not be trained on them with it.

        Raises:
            Refusal: if there is no such user, or no such chunk.
        """
        return tuple(self._index.column("pair_ids")[self._line(user_id, chunk)].as_py())

    def profile(self, user_id: UserId, chunk: int) -> str:
        """What the model said about the user; empty if it says nothing.

        Raises:
            Refusal: if there is no such user, or no such chunk.
        """
        group, line = divmod(self._line(user_id, chunk), TOGETHER)
        table = pq.ParquetFile(Path(self.path) / INDEX).read_row_group(group, columns=[PROFILE])
        return table.column(PROFILE)[line].as_py()

    def require(self, model_id: str | None = None, tokens: int | None = None, width: int | None = None) -> None:
        """Raise a Refusal if these are other embeddings than a network was, or will be, trained with.

        Args:
            model_id: that they must come from; None, here and below, is any.
            tokens: that they must have.
            width: of a token.
        """
        wanted = {"model_id": model_id, "tokens": tokens, "width": width}
        differs = {name: value for name, value in wanted.items() if value not in (None, self.summary[name])}
        if differs:
            said = ", ".join(f"{name} {self.summary[name]!r} instead of {value!r}" for name, value in differs.items())
            raise Refusal(f"{self.path} holds embeddings with {said}; run {EMBED} with the embedder of the model.")

    @cached_property
    def _index(self) -> pa.Table:
        file = Path(self.path) / INDEX
        names = [name for name in COLUMNS if name != PROFILE]
        shards = shard_names(self.summary["files"])
        if missing := [name for name in [INDEX, *shards] if not (Path(self.path) / name).exists()]:
            raise Refusal(
                f"{self.path} lacks {len(missing)} of its files, the first is {missing[0]}; copy the folder again, or "
                f"remove it and run {EMBED}."
            )
        require_written(Path(self.path), [INDEX, *shards], f"copy the folder again, or remove it and run {EMBED}")
        return pq.read_table(file, columns=names)

    @cached_property
    def _lines(self) -> dict[str, dict[int, int]]:
        """For each user, the line of each chunk in the index."""
        lines: dict[str, dict[int, int]] = defaultdict(dict)
        users, chunks = (self._index.column(name).to_pylist() for name in ("user_id", "chunk"))
        for line, (user, chunk) in enumerate(zip(users, chunks, strict=True)):
            lines[user][chunk] = line
        return dict(lines)

    def _of(self, user_id: UserId) -> dict[int, int]:
        if not self.knows(user_id):
            raise Refusal(
                f"User {user_id!r} has no embedding in {self.path}, which knows {len(self._lines)} users; embed the "
                f"user with {EMBED}, or drop pairs of such users: diffpo.diffusion.DropUnembedded before ForUser."
            )
        return self._lines[str(user_id)]

    def _line(self, user_id: UserId, chunk: int) -> int:
        if chunk not in (chunks := self._of(user_id)):
            raise Refusal(f"User {user_id!r} has no chunk {chunk} in {self.path}; there are {sorted(chunks)}.")
        return chunks[chunk]


def shard_names(count: int) -> list[str]:
    return [f"users-{number:05d}-of-{count:05d}{ENDING}" for number in range(count)]


def write_shard(file: Path, embeddings: Float[Tensor, "n tokens width"], dtype: Precision) -> None:
    """A shard that is there as a whole or not at all; 29 tokens of width 3584 are 208 kB in two bytes each.

    Hidden states of middle layers have outliers that float16 cannot hold.

    Raises:
        Refusal: if a number is not finite, or too large for the type.
        Refusal: if the disk is full.
    """
    largest, limit = embeddings.abs().amax().item() if len(embeddings) else 0.0, torch.finfo(TYPES[dtype]).max
    if not largest <= torch.finfo(torch.float32).max:
        raise Refusal(
            "A user's embedding has numbers that are not finite: the network overflows in its own type; set "
            "embedder.dtype to bfloat16."
        )
    if largest > limit:
        raise Refusal(
            f"A user's embedding has a number of {largest:.6g}, more than {dtype} can hold ({limit:.6g}); set dtype "
            "to bfloat16 or float32."
        )
    unfinished = file.with_suffix(".unfinished")
    with name_failed_writes(str(file), REMEDY):
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({TENSOR: embeddings.to(TYPES[dtype]).contiguous()}, unfinished)
        settle_file(unfinished, file)


def write_index(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """The index, line by line as `COLUMNS` says; it is there as a whole or not at all.

    Raises:
        Refusal: if the disk is full.
    """
    schema, unfinished = pa.schema(COLUMNS), file.with_suffix(".unfinished")
    with name_failed_writes(str(file), REMEDY), pq.ParquetWriter(unfinished, schema) as table:
        left = iter(lines)
        while some := list(islice(left, TOGETHER)):
            table.write_table(pa.Table.from_pylist(some, schema=schema))
    settle_file(unfinished, file)
