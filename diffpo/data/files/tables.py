"""Whatever holds records, as a memory-mapped table or as a stream of it."""

import csv
import glob
import logging
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, overload

import datasets
from datasets import Dataset, DatasetBuilder, IterableDataset
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.parquet.parquet import ParquetConfig
from datasets.utils.file_utils import xopen
from pyarrow import ArrowInvalid
from pyarrow.parquet import ParquetFile

from diffpo.core.refusal import Refusal
from diffpo.data.files.tars import Tars
from diffpo.storage.digests import FILES as DIGESTS
from diffpo.storage.digests import named_in, require_written
from diffpo.storage.files import in_one_line
from diffpo.storage.hub import name_failed_loads
from diffpo.storage.text_files import first_undecodable, require_utf8

FILES: dict[str, Callable[..., DatasetBuilder]] = {
    ".parquet": partial(datasets.load_dataset_builder, "parquet"),
    ".arrow": partial(datasets.load_dataset_builder, "arrow"),
    ".jsonl": partial(datasets.load_dataset_builder, "json"),
    ".json": partial(datasets.load_dataset_builder, "json"),
    ".csv": partial(datasets.load_dataset_builder, "csv"),
    ".tar": partial(Tars, hash="1"),  # the number names the copies that `datasets` keeps: another one, another reader
}
# The copy that `datasets` memory-maps gets ten times the usual rows per batch: each of Pick-a-Pic's takes 12 KB of
# memory and adds to the time of all that is done to the table. From parquet, larger batches cost nothing.
PARQUET = {"writer_batch_size": 1000}
TEXTS = {".jsonl", ".json", ".csv"}
PICTURES = {".png", ".jpg", ".jpeg", ".webp"}

log = logging.getLogger(__name__)


def open_table(path: str, split: str, revision: str | None, what: str = "a table of pairs") -> Dataset:
    """A hub id, folder, file or glob as one memory-mapped table; tar shards are unpacked into the cache of `datasets`.

    Args:
        what: it is, for the error.

    Raises:
        Refusal: if it cannot be reached or read; a tar shard or parquet file that is damaged is named.
        Refusal: if it is a folder that names its files with their digests, and one is not what was written.
    """
    require_as_written(Path(path))
    try:
        with name_failed_loads(path, what):
            return open_source(path, split, revision, streaming=False)
    except Refusal as refusal:
        within = refusal.__cause__ and refusal.__cause__.__cause__
        if told := damaged_parquet(path, isinstance(within, DatasetGenerationError)):
            raise Refusal(f"{path} does not hold {what} that can be read: {told}.") from refusal
        raise


def open_stream(path: str, split: str, revision: str | None) -> IterableDataset:
    """The same records, read from where they are as they are asked for.

    Raises:
        Refusal: if it cannot be reached or read; what is damaged further on is found further on.
    """
    with name_failed_loads(path, "a table of pairs"):
        return open_source(path, split, revision, streaming=True)


@overload
def open_source(path: str, split: str, revision: str | None, streaming: Literal[False]) -> Dataset: ...
@overload
def open_source(path: str, split: str, revision: str | None, streaming: Literal[True]) -> IterableDataset: ...
def open_source(path: str, split: str, revision: str | None, streaming: bool) -> Dataset | IterableDataset:
    local = Path(path)
    if (local / "state.json").exists() or (local / "dataset_dict.json").exists():
        table = saved_to_disk(path, split)
        return table.to_iterable_dataset() if streaming else table
    if local.is_dir() and (shards := sorted(map(str, local.glob("*.tar")))):
        return load_split(FILES[".tar"], "train", streaming, data_files=shards)
    if local.is_file() or glob.has_magic(path):
        if local.suffix not in FILES:
            raise Refusal(f"its name ends in none of {', '.join(FILES)}; save it as one of these")
        if not (files := sorted(glob.glob(path)) if glob.has_magic(path) else [path]):
            raise Refusal("no file has such a name; mend the pattern")
        if local.suffix in TEXTS:
            require_utf8(files)
        require_headed(files)
        options = PARQUET if local.suffix == ".parquet" else {}
        return load_split(FILES[local.suffix], "train", streaming, data_files=files, **options)
    if (local / "chosen").is_dir() and (local / "rejected").is_dir():
        raise Refusal("it is a folder of pairs (chosen/, rejected/), which diffpo.data.PairFolder reads")
    require_headed(local_files(path))
    options = PARQUET if next(chain(local.glob("*.parquet"), local.glob("*/*.parquet")), None) else {}
    return load_split(partial(datasets.load_dataset_builder, path), split, streaming, revision=revision, **options)


def saved_to_disk(path: str, split: str) -> Dataset:
    saved = datasets.load_from_disk(path)
    if isinstance(saved, Dataset):
        return saved
    if split not in saved:
        raise Refusal(f"data.source.split is {split!r}, there are {', '.join(map(str, saved))}.")
    return saved[split]


def load_split(builder: Callable[..., DatasetBuilder], split: str, streaming: bool, **options: Any) -> Any:
    """A table or stream; the several ways of `datasets` to say that a file cannot be parsed become ValueErrors."""
    named = options.get("data_files", ())  # of a folder or a hub id, `datasets` finds them
    try:
        built = builder(**options)
        if not streaming:
            built.download_and_prepare()
            if split in (splits := built.info.splits or {}) and not splits[split].num_examples:
                raise Refusal("it holds no rows; fill it, or name another one")
            return built.as_dataset(split=split)
        files: Any = built.config.data_files
        if isinstance(built.config, ParquetConfig) and split in files:
            return IterableDataset.from_generator(parquet_rows, gen_kwargs={"files": list(files[split])})
        return built.as_streaming_dataset(split=split)
    except StopIteration as error:
        raise Refusal("it is empty; fill it, or name another one") from error
    except tarfile.TarError as error:
        raise Refusal(find_damaged(named, error)) from error
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, tarfile.TarError):
            raise Refusal(find_damaged(named, error.__cause__)) from error
        if isinstance(error.__cause__, UnicodeDecodeError) and (told := first_undecodable(named)):
            raise Refusal(told) from error
        raise Refusal(f"{in_one_line(error.__cause__ or error)}; mend that line, or save the table anew") from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise Refusal(
            "it has a script of the folder's own name, which `datasets` no longer runs: remove that"
        ) from error


def require_headed(files: Sequence[str | Path]) -> None:
    """Raise a Refusal if a file of texts is empty, or a csv file names two columns alike: one would be renamed."""
    for file in map(Path, files):
        if file.suffix in TEXTS and not file.stat().st_size:
            raise Refusal(f"{file} is empty; fill it, or leave it out")
        if file.suffix == ".csv":
            with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
                names = Counter(next(csv.reader(lines), []))
            if twice := [name for name, times in names.items() if name and times > 1]:
                raise Refusal(f"{file} has more than one column {twice[0]!r}; rename or remove all but one of them")


def parquet_rows(files: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of parquet files, pictures undecoded.

    The reader of `datasets` decodes whole files ahead, ten at a time when they are shuffled: gigabytes per worker.
    Here it is one row group of each.

    Raises:
        Refusal: if a file is damaged; it is named.
    """
    for file in files:
        try:
            with xopen(file, "rb") as opened_file:
                reader = ParquetFile(opened_file, pre_buffer=False)
                for batch in reader.iter_batches(batch_size=16, use_threads=False):
                    yield from batch.to_pylist()
        except (OSError, ArrowInvalid) as error:
            raise Refusal(f"{file} cannot be read: {error}; fetch it again, or leave it out") from error


def require_as_written(folder: Path) -> None:
    """Compare the files of a folder of ours with what it says of them; see `open_table`."""
    if not (folder / DIGESTS).is_file():
        return
    try:
        named_in(folder)
    except ValueError:
        log.warning(f"{folder / DIGESTS} is damaged, or something else: the files there are taken as they are.")
        return
    require_written(folder, [], "copy it again, or remove it and make it anew")


def find_damaged(shards: Sequence[str], error: tarfile.TarError) -> str:
    """Which of the shards cannot be read to its end; `tarfile` does not say."""
    for shard in shards:
        try:
            with tarfile.open(shard) as archive:
                archive.getmembers()
        except tarfile.TarError as reason:
            return f"{shard} is no whole tar archive ({reason}); fetch it again, or leave it out"
    return f"a tar archive is damaged ({error}); fetch it again"


def damaged_parquet(path: str, among_rows: bool) -> str:
    """Which of the parquet files of a table cannot be read; nothing if all can, or there are none.

    Args:
        among_rows: whether the rows are read too, and not only what the end of each file says of them.
    """
    files = [file for file in local_files(path) if file.suffix == ".parquet"]
    for reads in {False, among_rows}:
        for file in files:
            try:
                with ParquetFile(file) as reader:
                    for _ in reader.iter_batches() if reads else [reader.schema_arrow]:
                        pass
            except (OSError, ValueError, MemoryError) as error:
                named = "it" if file == Path(path) else file
                reason = in_one_line(error).rstrip(".")
                return f"{named} is no whole parquet file ({reason}); fetch it again, or leave it out"
    return ""


def leave_undecoded(table: Any) -> Any:
    """The table (or stream) with its pictures as bytes and paths, so that they are decoded where we choose."""
    for name, feature in (table.features or {}).items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
        elif isinstance(find_inner_feature(feature), datasets.Image):
            table = table.cast_column(name, datasets.List(datasets.Image(decode=False)))
    return table


def heavy_columns(features: datasets.Features | None) -> set[str]:
    """Columns that hold pictures or other bytes, or lists of them; of a stream whose features are unknown, none."""
    blobs = (datasets.Value("binary"), datasets.Value("large_binary"))
    kinds = {name: find_inner_feature(feature) for name, feature in (features or {}).items()}
    return {name for name, kind in kinds.items() if isinstance(kind, datasets.Image) or kind in blobs}


def find_inner_feature(feature: Any) -> Any:
    """What a column holds, or what the lists in it do."""
    return feature.feature if isinstance(feature, datasets.List) else feature


def require_unicode(table: Dataset) -> None:
    """Raise a Refusal if a column of texts holds something else than UTF-8: JSON files are read without a look."""
    for name in table.column_names:
        try:
            table.data.column(name).validate(full=True)
        except ArrowInvalid as error:
            raise Refusal(f"Column {name!r} cannot be read ({error}); save the file as UTF-8.") from error


def folder_of(path: str) -> Path:
    """What relative paths in a file, or in the files of a folder, are relative to."""
    return Path(path).parent if Path(path).is_file() or glob.has_magic(path) else Path(path)


def local_files(path: str) -> list[Path]:
    """The files of records that a path means on this machine; none if it is a hub id.

    Of a folder, files of the first of the endings that it has: others beside are not read.
    """
    if Path(path).is_file():
        return [Path(path)]
    if glob.has_magic(path):
        return sorted(file for file in map(Path, glob.glob(path)) if file.is_file())
    found = [file for file in Path(path).rglob("*") if file.suffix in FILES] if Path(path).is_dir() else []
    first = next((ending for ending in FILES if any(file.suffix == ending for file in found)), None)
    return sorted(file for file in found if file.suffix == first)


def pictures_by_stem(folder: Path) -> dict[str, Path]:
    """Pictures of a folder by name without ending.

    Raises:
        Refusal: if two of them share it.
    """
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*")):
        if file.suffix.lower() in PICTURES:
            if file.stem in found:
                raise Refusal(f"{file} and {found[file.stem].name} are both {file.stem!r}; keep one of them.")
            found[file.stem] = file
    return found


def require_columns(have: Sequence[str], wanted: Sequence[str], asker: object) -> None:
    """Raise a Refusal that names the columns that are wanted and absent."""
    if missing := sorted(set(wanted) - set(have)):
        raise Refusal(
            f"{type(asker).__name__} needs columns {', '.join(map(repr, missing))}, the table has "
            f"{', '.join(map(repr, have))}; name yours with the fields of {type(asker).__name__}."
        )
