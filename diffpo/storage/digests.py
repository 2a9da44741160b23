"""What was written is what is read: a folder names its files, with their sizes and digests, in `files.json`."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from yaml import YAMLError

from diffpo.core.refusal import Refusal
from diffpo.storage.files import name_failed_writes

FILES = "files.json"
REPORT = "report.json"
SUMMARIES = (REPORT, "utilities.json", "prompts.jsonl")  # written at the end of what the same command finds done
# What an evaluation finds, and its sheets: they come after what they are of, and are vouched for by themselves.
FOUND = {*SUMMARIES, "before_after.png", "users.png", "between.png"}
# What a run exports, wherever it is from, in its folder.
EXPORTED = ("*.safetensors", "*.safetensors.index.json", "unet/*", "transformer/*")
EXPORTED += ("adapter_config.json", "config.json", "generation_config.json", "*processor_config.json")
NETWORKS = ("unet", "transformer")  # folders that diffusers keeps a pipeline's network in
CHECKED = ".checked.json"
THREADS = min(8, os.cpu_count() or 1)

log = logging.getLogger(__name__)


def digest_of(file: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return {"bytes": opened.tell(), "sha256": digest}


def digest_files(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Of several files, by name."""
    names = list(names)
    with ThreadPoolExecutor(THREADS, "digests") as pool:
        return dict(zip(names, pool.map(lambda name: digest_of(folder / name), names), strict=True))


def name_files(folder: Path, about: Mapping[str, Any]) -> None:
    """Write `files.json` for all files below a folder, when the disk holds them.

    Args:
        about: what else it says.
    """
    names = found_in(folder)
    for name in names:
        flush_file(folder / name)
    text = json.dumps({**about, "files": digest_files(folder, names)}, indent=2) + "\n"
    (folder / FILES).write_text(text)
    flush_file(folder / FILES)
    for inner in {folder, *(file.parent for file in map(folder.joinpath, names))}:
        flush_file(inner)


def found_in(folder: Path) -> list[str]:
    """Names of all files below a folder but `files.json`."""
    found = (str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir())
    return sorted(name for name in found if name != FILES)


def named_in(folder: Path) -> dict[str, Any] | None:
    """What `files.json` says, None if there is none.

    Raises:
        ValueError: if it is no such file.
    """
    if not (folder / FILES).exists():
        return None
    said = json.loads((folder / FILES).read_bytes())
    if not (isinstance(said, dict) and isinstance(said.get("files"), dict)):
        raise ValueError("it names no files")
    return said


def wrong_size(folder: Path, name: str, entry: Any) -> str:
    """What is wrong with a file at first sight: nothing if it is there and as long as it should be."""
    if not (folder / name).is_file():
        return f"{name} is missing"
    size = (folder / name).stat().st_size
    if not isinstance(entry, dict) or size != entry.get("bytes"):
        return f"{name} has {size} bytes, not those that were written"
    return ""


def wrong_file(folder: Path, name: str, entry: Any) -> str:
    """What is wrong with a file: nothing if it is what was written."""
    if wrong := wrong_size(folder, name, entry):
        return wrong
    return "" if digest_of(folder / name) == entry else f"{name} holds something else than was written"


def written_in(folder: Path) -> dict[str, Any] | None:
    """Digests by name of the files of a folder that hours of work have filled; None, which is told, if there are none.

    Raises:
        Refusal: if the list of them is damaged.
    """
    try:
        said = named_in(folder)
    except (OSError, ValueError) as error:
        raise Refusal(describe_damage(folder / FILES, error)) from error
    if said is None:
        log.warning(f"{folder} has no {FILES}, so its files are taken as they are: nothing tells what was written.")
    return said and said["files"]


def not_as_written(folder: Path, files: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with files of a folder, by name; of what is as it was written, nothing.

    A file is read when it is first looked at, and again when its state (size, times, place on the disk) is not the one
    it had then: hundreds of gigabytes are read once, not in every run. `.checked.json` in the folder remembers states.

    Args:
        files: sizes and digests by name.
    """
    wrong = {name: said for name, entry in files.items() if (said := wrong_size(folder, name, entry))}
    try:
        known = json.loads((folder / CHECKED).read_bytes())
    except (OSError, ValueError):
        known = {}
    states = {name: state_of(folder / name) for name in files.keys() - wrong.keys()}
    checked = {name: [state, files[name]] for name, state in states.items()}
    unread = [name for name in files if name in checked and known.get(name) != checked[name]]
    found = digest_files(folder, unread)
    wrong |= {name: f"{name} is not what was written" for name in unread if found[name] != files[name]}
    if unread:
        try:
            good = {name: said for name, said in checked.items() if name not in wrong}
            (folder / CHECKED).write_text(json.dumps(good))
        except OSError:
            log.info(f"{folder} cannot be written, so that its files will be read once more.")
    return wrong


def state_of(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def require_written(folder: Path, names: Iterable[str], remedy: str) -> None:
    """Raise a Refusal that names the first of these files of a folder that is not what was written."""
    files = written_in(folder)
    if files is None:
        return
    if unnamed := [name for name in names if name not in files]:
        raise Refusal(f"{folder / FILES} does not name {unnamed[0]}, which belongs to the folder; {remedy}.")
    if wrong := not_as_written(folder, files):
        more = f", and {len(wrong) - 1} more files are not right" if len(wrong) > 1 else ""
        raise Refusal(f"{folder} is damaged: {next(iter(wrong.values()))}{more}; {remedy}.")


def name_exported(folder: Path, also: Iterable[str] = ()) -> None:
    """Write digests of what a run has exported into its folder, beside those of its evaluation.

    Others may take the folder, or publish it, as it is: the digests go with it. What people may change on purpose
    (model card, config, metrics) is not named.

    Args:
        also: names of further files, e.g. of a tokenizer.

    Raises:
        OSError: if it cannot be written.
    """
    found = {str(file.relative_to(folder)) for pattern in EXPORTED for file in folder.glob(pattern) if file.is_file()}
    names = sorted(found | {name for name in also if (folder / name).is_file()})
    for name in names:
        flush_file(folder / name)
    replace_list(folder, {name: known_digest(folder / name) for name in names} | found_by_evaluation(folder))


def forget_exported(folder: Path) -> None:
    """Before an export: what is there from a former one is not what will be written, and a kill may come between."""
    replace_list(folder, found_by_evaluation(folder))


def found_by_evaluation(folder: Path) -> dict[str, Any]:
    """Of the digests in a folder, those of what an evaluation has found."""
    return {name: entry for name, entry in vouched(folder).items() if name in FOUND}


def name_written(folder: Path, name: str, content: bytes | None) -> None:
    """Add the digest of a file to those of a folder; without content, take it out, before the file is written.

    Raises:
        Refusal: if it cannot be written.
    """
    with name_failed_writes(str(folder / FILES), "the same command then goes on where it stopped"):
        others = {other: entry for other, entry in vouched(folder).items() if other != name}
        replace_list(folder, others if content is None else others | {name: entry_of(content)})


def vouched(folder: Path) -> dict[str, Any]:
    """Digests by name in a folder whose list is written anew; of a damaged list nothing is kept, which is told."""
    try:
        return (named_in(folder) or {}).get("files", {})
    except ValueError as error:
        log.warning(f"{folder / FILES} is damaged ({error}); it is written anew, of what is written now.")
        return {}


def replace_list(folder: Path, files: Mapping[str, Any]) -> None:
    """Write `files.json` as a whole or not at all; for no files there is none."""
    if not files:
        (folder / FILES).unlink(missing_ok=True)
        return
    unfinished = folder / f"{FILES}.unfinished"
    unfinished.write_text(json.dumps({"files": files}, indent=2) + "\n")
    flush_file(unfinished)
    unfinished.replace(folder / FILES)
    flush_file(folder)


def require_exported(path: Path) -> None:
    """Compare what is loaded from a run's folder with what the run has exported there.

    A file is read once more for this, once in the life of a program as long as it does not change: at the 700 MB/s
    of one core that were measured, the 5 GB of a UNet of XL take seven seconds, a LoRA none. Folders without a
    `files.json`, of others or older, are taken as they are.

    Args:
        path: a run's folder, its `unet/`, or a file in one of these; of a hub id nothing is compared.

    Raises:
        Refusal: if a file is not the one that was written, or is missing.
    """
    for folder, inside in places_of(path):
        if not (folder / FILES).is_file():
            continue
        try:
            files = (named_in(folder) or {}).get("files", {})
        except ValueError:
            log.warning(f"{folder / FILES} is damaged, or something else: the files there are taken as they are.")
            return
        for name, entry in files.items():
            loaded = not inside or name == inside or name.startswith(f"{inside}/")
            if loaded and name not in FOUND and (wrong := not_exported(folder, name, entry)):
                raise Refusal(
                    f"{folder} is not as it was written: {wrong}; copy the file again from where it is whole, or, if "
                    f"the change is meant, remove {folder / FILES}."
                )
        return


def places_of(path: Path) -> list[tuple[Path, str]]:
    """Folders whose lists may name what is at a path, nearest first, and its name there; none for a hub id."""
    if path.is_dir():
        return [(path, ""), *([(path.parent, path.name)] if path.name in NETWORKS else [])]
    if path.is_file():
        above = path.parent
        inside = [(above.parent, f"{above.name}/{path.name}")] if above.name in NETWORKS else []
        return [(above, path.name), *inside]
    return []


def not_exported(folder: Path, name: str, entry: Any) -> str:
    """As `wrong_file`, with a digest that is computed once."""
    if wrong := wrong_size(folder, name, entry):
        return wrong
    return "" if known_digest(folder / name) == entry else f"{name} holds something else than was written"


def known_digest(file: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, which is read when it is first asked for, and again when its state is another."""
    return dict(digest_at(file.resolve(), *state_of(file)))


@cache
def digest_at(file: Path, *state: int) -> dict[str, Any]:
    return digest_of(file)


def read_json(file: Path) -> Any:
    """What a JSON file holds; if the folder names it with its digest, that is compared.

    Raises:
        Refusal: if it cannot be read, or is not what was written.
    """
    content = read_named(file)
    try:
        return json.loads(content)
    except ValueError as error:
        raise Refusal(describe_damage(file, error)) from error


def read_named(file: Path) -> bytes:
    """What a file holds; if the folder names it with its digest, that is compared.

    Raises:
        Refusal: if it cannot be read, or is not what was written.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise Refusal(describe_damage(file, error)) from error
    named = written_in(file.parent) if (file.parent / FILES).exists() else None
    entry = (named or {}).get(file.name)
    if entry and entry != entry_of(content):
        raise Refusal(describe_damage(file, "it is not what was written"))
    return content


@contextmanager
def naming_damage(file: Path) -> Iterator[None]:
    """Inside, a file that programs of ours wrote is read; what cannot be made of it is damage to it.

    Raises:
        Refusal: if it cannot be read, or does not hold what it should.
    """
    try:
        yield
    except Refusal:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, YAMLError) as error:
        raise Refusal(describe_damage(file, f"{type(error).__name__}: {error}")) from error


def entry_of(content: bytes) -> dict[str, Any]:
    """Size and digest of what will be written."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def describe_damage(file: Path, reason: object) -> str:
    said = " ".join(str(reason).split())[:200]
    told = (
        "it and run the command that wrote it once more" if file.name in SUMMARIES else f"{file.parent} and begin anew"
    )
    return f"{file} is damaged ({said}); copy it again from where it is whole, or remove {told}."


def flush_file(path: Path) -> None:
    """Wait until the disk holds a file, or the names in a folder, so that a power cut finds them whole."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
