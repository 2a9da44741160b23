"""Pairs, and what was found of them, as parquet shards that `diffpo.data.Columns` reads; pictures stay the bytes
they were."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import PartialState
from datasets import Features, Image, List, Value

from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import BrokenImage, broken_if_unreadable, image_size, open_value, read_image
from diffpo.data.files.records import Cell, Held
from diffpo.data.rows import PairRow
from diffpo.data.typed import list_captions
from diffpo.diffusion.annotate.pairs_in_order import PairsInOrder, shared_prompt
from diffpo.processes.stopping import end_in_order
from diffpo.storage.files import name_failed_writes
from diffpo.storage.job_folder import JobFolder
from diffpo.storage.ledger import REMEDY, settle_file

SHARD = 500 * 2**20  # bytes of pictures, about
GROUP = 32 * 2**20  # bytes of pictures that are held in memory
LOOKED_AT = 64

STRING, NUMBER = Value("string"), Value("float64")
PER_SIDE = {"prompt_chosen": STRING, "prompt_rejected": STRING}
SCORES = {"score_chosen": NUMBER, "score_rejected": NUMBER}
COLUMNS = {"prompt": STRING, "chosen": Image(), "rejected": Image(), "prob": NUMBER}


def further_columns(tables: Iterable[Features], per_side: bool, found: dict[str, Any] = SCORES) -> Features:
    """The source's light columns but for those whose names are ours; what one of its tables lacks is null there.

    Args:
        tables: the light columns of each table.
        per_side: whether each side has a prompt of its own.
        found: columns of what is found of each pair.

    Raises:
        Refusal: if a column has different types in two tables.
    """
    ours = COLUMNS | found | (PER_SIDE if per_side else {})
    kept: dict[str, Any] = {}
    for table in tables:
        for name, feature in table.items():
            if name not in ours and kept.setdefault(name, feature) != feature:
                raise Refusal(
                    f"Column {name!r} is {kept[name]} in one source and {feature} in another; score them apart."
                )
    return Features(kept)


@dataclass(frozen=True, eq=False)
class PairShards:
    """Pairs and their scores as files of about 500 MB; a subclass adds something else than scores.

    Attributes:
        pairs: row n has the scores numbered 2n (chosen) and 2n + 1 (rejected).
        further: columns from `further_columns`.
        per_side: whether each side has a prompt of its own.
        mean: bytes of a pair's pictures, about; decides how many pairs a shard holds.
    """

    pairs: PairsInOrder
    further: Features
    per_side: bool
    mean: float

    @property
    def added(self) -> dict[str, Any]:
        """Columns of what was found of each pair."""
        return SCORES

    def found(self, n: int, results: Mapping[int, Any]) -> dict[str, Any]:
        """Values of the added columns for pair n."""
        return {"score_chosen": results[2 * n], "score_rejected": results[2 * n + 1]}

    @property
    def features(self) -> Features:
        prompts = {"prompt": STRING} | (PER_SIDE if self.per_side else {})
        lists = dict.fromkeys(prompts, List(STRING)) if self.pairs.several else {}
        return Features(COLUMNS | self.added | prompts | lists | self.further)

    @property
    def per_shard(self) -> int:
        return max(1, int(SHARD / max(1.0, self.mean)))

    @property
    def names(self) -> list[str]:
        count = -(-len(self.pairs) // self.per_shard)
        return [f"train-{shard:05d}-of-{count:05d}.parquet" for shard in range(count)]

    def write(self, shard: int, folder: Path, results: Mapping[int, Any]) -> Path:
        """One of the shards; it is there as a whole or not at all.

        Args:
            results: what `found` makes columns of.

        Raises:
            Refusal: if the disk is full.
        """
        file, features = folder / self.names[shard], self.features
        schema = features.arrow_schema
        unfinished = file.with_suffix(".unfinished")
        with name_failed_writes(str(file), REMEDY), pq.ParquetWriter(unfinished, schema) as writer:
            for group in self.groups(shard, results):
                encoded = [features.encode_example(record) for record in group]
                writer.write_table(pa.Table.from_pylist(encoded, schema=schema))
        settle_file(unfinished, file)
        return file

    def groups(self, shard: int, results: Mapping[int, Any]) -> Iterator[list[dict[str, Any]]]:
        """Records of a shard, few enough at a time to be held in memory."""
        group, size, begin = [], 0, shard * self.per_shard
        for n in range(begin, min(begin + self.per_shard, len(self.pairs))):
            group.append(self.record(self.pairs[n], self.found(n, results)))
            size += sum(len(picture["bytes"]) for side in ("chosen", "rejected") if (picture := group[-1][side]))
            if size >= GROUP:
                yield group
                group, size = [], 0
        if group:
            yield group

    def record(self, row: PairRow, found: Mapping[str, Any]) -> dict[str, Any]:
        """One line of the table; `prompt` is the one that both sides share, else the source's, else the chosen's."""
        first, second = row.prompts
        texts = {"prompt": shared_prompt(row)}
        texts |= {"prompt_chosen": first, "prompt_rejected": second} if self.per_side else {}
        written = list_captions if self.pairs.several else str
        ours = {
            **{name: text if text is None else written(text) for name, text in texts.items()},
            "chosen": read_stored_bytes(row.candidates[0]),
            "rejected": read_stored_bytes(row.candidates[1]),
            "prob": row.prob,
            **found,
        }
        return {name: row.extra.get(name) for name in self.further} | ours


def write_missing(folder: JobFolder, shards: PairShards, results: Mapping[int, Any]) -> None:
    """Write the shards that are missing; the processes take turns."""
    state = PartialState()
    missing = folder.missing(shards.names)
    state.wait_for_everyone()  # nobody adds before all have seen the same
    with end_in_order() as stop:
        for name in missing[state.process_index :: state.num_processes]:
            shards.write(shards.names.index(name), folder.unfinished, results)
            folder.keep(name)
            stop.here()
    state.wait_for_everyone()


def read_stored_bytes(candidate: Cell | Held) -> dict[str, Any] | None:
    """A picture's bytes as they are stored, and its name; None if there are none.

    Of a file, only a picture that decodes: what else a table may name is not for others to read.
    """
    value = candidate.read()
    try:
        with broken_if_unreadable():
            found = open_value(value, candidate.folder)
            if isinstance(found, Path):
                content = found.read_bytes()
                read_image(content, most=candidate.most)
                return {"bytes": content, "path": found.name}
    except BrokenImage:
        return None
    return {"bytes": found, "path": value.get("path") if isinstance(value, Mapping) else None}


def mean_bytes(pairs: PairsInOrder) -> float:
    """Bytes of a pair's pictures, the mean of some pairs from all over the data.

    Raises:
        Refusal: if none of them has a picture that can be read.
    """
    sizes, reason, where = [], None, None
    for n in range(0, len(pairs), -(-len(pairs) // LOOKED_AT)):
        for candidate in pairs[n].candidates:
            try:
                image_size(candidate.read(), candidate.folder, candidate.most)
            except BrokenImage as error:
                reason, where = error, candidate.folder.resolve()
            else:
                sizes.append(len(picture["bytes"]) if (picture := read_stored_bytes(candidate)) else 0)
    if not sizes:
        raise Refusal(
            f"None of the pictures looked at can be read ({reason}); check that the source names columns of pictures, "
            f"and that paths are relative to {where}."
        )
    return 2 * sum(sizes) / len(sizes)
