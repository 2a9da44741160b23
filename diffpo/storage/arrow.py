"""Tables as files of arrow streams that are mapped into memory; each file is there as a whole or not at all."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from datasets import Dataset, Features
from datasets.table import MemoryMappedTable, concat_tables

from diffpo.core.refusal import Refusal
from diffpo.storage.files import name_failed_writes
from diffpo.storage.job_folder import JobFolder
from diffpo.storage.ledger import REMEDY, move_into_place

ENDING = ".arrow"
PER_FILE = 1024  # rows, unless they are large
LARGEST = 256 * 2**20  # bytes of a file


def name_table_files(what: str, count: int) -> list[str]:
    """Names of the files of a table."""
    return [f"{what}-{number:05d}-of-{count:05d}{ENDING}" for number in range(count)]


def write_batch(file: Path, features: Features, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as one batch: small ones would cost memory and time whenever the table is opened.

    Raises:
        Refusal: if the disk is full; what was written then has another name.
    """
    schema, unfinished = features.arrow_schema, file.with_suffix(".unfinished")
    batch = pa.RecordBatch.from_pylist([features.encode_example(dict(record)) for record in records], schema=schema)
    with name_failed_writes(str(file), REMEDY):
        file.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
            stream.write_batch(batch)
        move_into_place(unfinished, file)


def open_files(folder: Path, what: str, count: int) -> Dataset:
    """All files of a table as one.

    Raises:
        Refusal: if one is missing, or is no such file.
    """
    files = [folder / name for name in name_table_files(what, count)]
    if missing := [file.name for file in files if not file.exists()]:
        raise Refusal(
            f"{folder} lacks {len(missing)} of its files, the first is {missing[0]}; copy the folder again, or remove "
            "it and make it anew."
        )
    try:
        return Dataset(concat_tables([MemoryMappedTable.from_file(str(file)) for file in files]))
    except (OSError, pa.ArrowInvalid) as error:
        raise Refusal(
            f"A file {what}-*{ENDING} in {folder} is damaged ({' '.join(str(error).split())[:200]}); copy the folder "
            "again, or remove it and make it anew."
        ) from error


class Shards(ABC):
    """A table that is computed file by file; a kill costs no more than the file that each process works at."""

    what: ClassVar[str]

    @property
    @abstractmethod
    def rows(self) -> int: ...

    @cached_property
    @abstractmethod
    def bytes_of_row(self) -> int:
        """What makes a row large, at most."""

    @abstractmethod
    def write(self, names: Sequence[str], folder: Path, silent: bool) -> Iterator[str]:
        """Compute these files; yields the name of each one when it is there.

        Raises:
            Refusal: if the disk is full.
        """

    def made_with(self, name: str) -> list[str]:
        """Names of a file and of what is written beside it."""
        return [name]

    def missing_in(self, folder: JobFolder) -> list[str]:
        """Names of files that are not there as they were written; all processes have to call this."""
        parts = {name: self.made_with(name) for name in self.files}
        absent = set(folder.missing([part for of_file in parts.values() for part in of_file]))
        return [name for name, of_file in parts.items() if absent.intersection(of_file)]

    @property
    def bytes(self) -> int:
        return self.rows * self.bytes_of_row

    @cached_property
    def files(self) -> dict[str, range]:
        """Rows of each file, by its name."""
        per_file = max(1, min(PER_FILE, LARGEST // self.bytes_of_row))
        begins = range(0, self.rows, per_file)
        found = name_table_files(self.what, len(begins))
        return {name: range(n, min(n + per_file, self.rows)) for name, n in zip(found, begins, strict=True)}
