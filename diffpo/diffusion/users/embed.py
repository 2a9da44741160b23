"""An embedding for every support chunk of every user, in a folder that `diffpo.diffusion.UserEmbeddings` reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from diffpo.annotators.embedders.embedder import Shown, UserEmbedder
from diffpo.core.refusal import Refusal
from diffpo.data.rows import RowMap
from diffpo.data.source import Source
from diffpo.diffusion.annotate.job import Job
from diffpo.diffusion.annotate.pairs_in_order import PairsInOrder
from diffpo.diffusion.annotate.read_ahead import Question, read_ahead
from diffpo.diffusion.annotate.score import read_candidate
from diffpo.diffusion.annotate.shards import mean_bytes
from diffpo.diffusion.encode.encode import make_missing
from diffpo.diffusion.users.chunks import Cut, SupportChunk
from diffpo.diffusion.users.embeddings import (
    ENDING,
    INDEX,
    SUMMARY,
    TYPES,
    Precision,
    shard_names,
    write_index,
    write_shard,
)
from diffpo.storage.arrow import Shards
from diffpo.storage.digests import read_json
from diffpo.storage.job_folder import JobFolder
from diffpo.storage.ledger import write_json

UNFINISHED = ".embedding"


@dataclass(frozen=True, eq=False)
class UserShards(Shards):
    """Embeddings of support chunks; beside each shard, until all are there, what else the index says of its rows.

    Attributes:
        batch_size: chunks whose pictures are in memory at a time.
    """

    chunks: list[SupportChunk]
    pairs: PairsInOrder
    embedder: UserEmbedder
    dtype: Precision
    batch_size: int
    what = "users"

    @property
    def rows(self) -> int:
        return len(self.chunks)

    @cached_property
    def bytes_of_row(self) -> int:
        tokens, width = self.embedder.shape
        return tokens * width * TYPES[self.dtype].itemsize

    @cached_property
    def files(self) -> dict[str, range]:
        begins = range(0, self.rows, self.embedder.per_file)
        names = shard_names(len(begins))
        return {
            name: range(n, min(n + self.embedder.per_file, self.rows)) for name, n in zip(names, begins, strict=True)
        }

    def write(self, names: Sequence[str], folder: Path, silent: bool) -> Iterator[str]:
        """Batches begin anew in each shard: what is in a shard depends on nothing but its chunks."""
        total = sum(len(self.files[name]) for name in names)
        with tqdm(total=total, desc="embedding users", unit="chunk", disable=silent) as bar:
            for name in names:
                found = [torch.zeros(0, *self.embedder.shape)]
                profiles: dict[int, str] = {}
                for asked, readable in self.shown(self.files[name]):
                    if readable:
                        embedded = self.embedder(list(readable.values()))
                        found.append(embedded.tokens)
                        profiles |= dict(zip(readable, embedded.profiles, strict=True))
                    bar.update(asked)
                self.store(folder / name, torch.cat(found), profiles)
                yield name

    def store(self, file: Path, tokens: Float[Tensor, "n tokens width"], profiles: dict[int, str]) -> None:
        """The shard last: where it is, the rest is too."""
        write_json(beside(file), {"chunks": list(profiles), "profiles": list(profiles.values())})
        write_shard(file, tokens, self.dtype)

    def shown(self, rows: range) -> Iterator[tuple[int, dict[int, list[Shown]]]]:
        """Batch by batch how many chunks it has, and those of them, by number, whose pictures can all be read."""
        pairs = [(row, self.pairs[n]) for row in rows for n in self.chunks[row].pairs]
        questions = [
            Question(row, str(pair.prompts[0]), partial(read_candidate, picture))
            for row, pair in pairs
            for picture in pair.candidates
        ]
        per_chunk = 2 * len(self.chunks[0].pairs)
        for batch in read_ahead(questions, per_chunk * self.batch_size, per_chunk):
            readable: dict[int, list[Shown]] = {}
            begins = range(0, len(batch), per_chunk)
            for of_chunk in (batch[begin : begin + per_chunk] for begin in begins):
                pictures = [picture for _, picture in of_chunk if picture]
                if len(pictures) == per_chunk:
                    captions = [question.prompt for question, _ in of_chunk[::2]]
                    sides = zip(captions, pictures[::2], pictures[1::2], strict=True)
                    readable[of_chunk[0][0].row] = [Shown(*of_pair) for of_pair in sides]
            yield len(begins), readable

    def made_with(self, name: str) -> list[str]:
        return [name, beside(Path(name)).name]

    def index(self, folder: Path, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Lines of the index, of shards that are all there."""
        tokens, width = self.embedder.shape
        same = {"model_id": about["model_id"], "revision": about["revision"], "layers": tokens, "width": width}
        for name in self.files:
            told = read_json(beside(folder / name))
            for row, (number, profile) in enumerate(zip(told["chunks"], told["profiles"], strict=True)):
                chunk = self.chunks[number]
                ids = [self.pairs[n].id for n in chunk.pairs]
                place = {"user_id": chunk.user, "chunk": chunk.number, "pair_ids": ids, "file": name, "row": row}
                yield same | place | {"profile": profile}


def beside(shard: Path) -> Path:
    return shard.with_suffix(".json")


def embed_users(
    embedder: UserEmbedder,
    source: Source,
    output_dir: Path | str,
    cut: Cut,
    rows: Sequence[RowMap] = (),
    dtype: Precision = "bfloat16",
    batch_size: int = 8,
) -> dict[str, Any]:
    """Embed all users of a source: shards of embeddings, an index, and a summary, which is written last.

    All processes share the work, shard by shard. After a kill, the same call goes on where it stopped, and the files
    are those of a run that was never stopped; once finished, it does nothing. A chunk with a picture that cannot be
    read is left out.

    Args:
        rows: what drops pairs before they are grouped by user.
        dtype: in which embeddings are stored.
        batch_size: support chunks whose pictures are read at a time; an embedder may divide them further.

    Returns:
        What is in `users.json`: what the embeddings depend on; `users`, `users_with_too_few` pairs, `ties`,
        `pairs_without_user`; `chunks` that have an embedding and those that are `unreadable`; `tokens`, `width`,
        `files` and `bytes`.

    Raises:
        Refusal: if the source or the embedder cannot be used, no user has enough pairs, no chunk can be read, an
            embedding does not fit the type, or the folder holds something else or is too small.
        Refusal: if the folder cannot be written, or is full.
    """
    folder = JobFolder(Path(output_dir), SUMMARY, UNFINISHED, ENDING)
    job = Job.open(folder, source, rows, cut.seed, batch_size)
    pairs, chunks = job.pairs, cut(job.pairs, silent=job.is_silent)
    embedder.check()
    how = {"user": cut.user, "shots": cut.shots, "most_chunks": cut.most_chunks, "seed": cut.seed, "dtype": dtype}
    identity = {**embedder.identity, **how, **job.data, "pairs": len(pairs), "digest": chunks.digest}
    if (finished := folder.finished(identity)) is not None:
        return finished
    mean_bytes(pairs)  # refuses a source without pictures
    shards = UserShards(chunks.all, pairs, embedder, dtype, batch_size)
    folder.require_room("Embeddings of users", shards.bytes)
    job.begin(identity)
    make_missing(folder, shards)
    if job.state.is_main_process:
        finish_embeddings(folder, shards, identity | chunks.counts)
    job.state.wait_for_everyone()
    return read_json(folder.path / SUMMARY)


def finish_embeddings(folder: JobFolder, shards: UserShards, about: dict[str, Any]) -> None:
    told = [read_json(beside(folder.unfinished / name)) for name in shards.files]
    embedded = sum(len(of_shard["chunks"]) for of_shard in told)
    if not embedded:
        raise Refusal(f"Each of {shards.rows} chunks has a picture that cannot be read; check the source's pictures.")
    write_index(folder.path / INDEX, shards.index(folder.unfinished, about))
    folder.gather()
    tokens, width = shards.embedder.shape
    size = sum((folder.path / name).stat().st_size for name in shards.files)
    counts = {"chunks": embedded, "unreadable": shards.rows - embedded, "tokens": tokens, "width": width}
    folder.finish(about | counts | {"files": len(shards.files), "bytes": size}, [*shards.files, INDEX])
