"""What was written is what is read: a folder names its files, with their sizes and digests, in `files.json`."""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffpo.core.refusal import Refusal

FILES = "files.json"
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


def read_json(file: Path) -> Any:
    """What a JSON file holds; if the folder names it with its digest, that is compared.

    Raises:
        Refusal: if it cannot be read, or is not what was written.
    """
    try:
        content = file.read_bytes()
        found = json.loads(content)
    except (OSError, ValueError) as error:
        raise Refusal(describe_damage(file, error)) from error
    named = written_in(file.parent) if (file.parent / FILES).exists() else None
    entry = (named or {}).get(file.name)
    if entry and entry != entry_of(content):
        raise Refusal(describe_damage(file, "it is not what was written"))
    return found


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
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise Refusal(describe_damage(file, f"{type(error).__name__}: {error}")) from error


def entry_of(content: bytes) -> dict[str, Any]:
    """Size and digest of what will be written."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def describe_damage(file: Path, reason: object) -> str:
    said = " ".join(str(reason).split())[:200]
    return f"{file} is damaged ({said}); copy it again from where it is whole, or remove {file.parent} and begin anew."


def flush_file(path: Path) -> None:
    """Wait until the disk holds a file, or the names in a folder, so that a power cut finds them whole."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
