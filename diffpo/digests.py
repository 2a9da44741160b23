"""What was written is what is read: a folder names its files, with their sizes and digests, in `files.json`."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

FILES = "files.json"
THREADS = min(8, os.cpu_count() or 1)


def digest_of(file: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        return {"bytes": opened.tell(), "sha256": digest}


def digests(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
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
        flush(folder / name)
    text = json.dumps({**about, "files": digests(folder, names)}, indent=2) + "\n"
    (folder / FILES).write_text(text)
    flush(folder / FILES)
    for inner in {folder, *(file.parent for file in map(folder.joinpath, names))}:
        flush(inner)


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


def flush(path: Path) -> None:
    """Wait until the disk holds a file, or the names in a folder, so that a power cut finds them whole."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
