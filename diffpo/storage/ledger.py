"""Results that survive a kill: one line of JSON per row, in one file per process."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

from diffpo.core.refusal import Refusal
from diffpo.storage.digests import flush_file, name_written, read_json
from diffpo.storage.files import name_failed_writes

IDENTITY = "identity.json"
REMEDY = "the same command then goes on where it stopped"

log = logging.getLogger(__name__)


class Ledger:
    """What was found for which row, by this and all former runs of the same work.

    The number of processes may change from run to run. What one process adds while another one opens may or may not be
    seen there, so processes that share out the missing rows wait for one another between opening and adding. Each line
    has a checksum, of the identity too: what a damaged one held, or one of another ledger, counts as not found, and
    the first process tells of it and takes it out.

    Attributes:
        done: results by row, of all processes up to the opening, and what this one added since.

    Args:
        identity: what the results depend on.
        rank: number of this process; no two open a ledger with the same one.

    Raises:
        Refusal: if the folder holds results of another identity, or of one that nothing tells.
        Refusal: if the folder cannot be written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], rank: int = 0):
        self.folder, self.file = folder, folder / f"part-{rank:05d}.jsonl"
        parts = sorted(folder.glob("part-*.jsonl"))
        if (folder / IDENTITY).exists():
            require_same(read_json(folder / IDENTITY), identity, folder)
        elif parts:
            raise Refusal(f"{folder} lacks {IDENTITY}, so nothing tells what its results are of; remove that folder.")
        else:
            write_json(folder / IDENTITY, dict(identity), f".{rank}")
        written = json.dumps(read_json(folder / IDENTITY), sort_keys=True)
        self._salt = crc32(written.encode()) if identity else 0
        self.done: dict[Any, Any] = {}
        for part in parts:
            lines = whole_lines(part).splitlines(keepends=True)
            found = [(line, entry) for line in lines if (entry := entry_in(line, self._salt)) is not None]
            self.done.update(entry for _, entry in found)
            if len(found) < len(lines) and not rank:
                log.warning(
                    f"{len(lines) - len(found)} of {len(lines)} lines of {part} are damaged or of another ledger; "
                    "what they held is found anew."
                )
                replace_file(part, b"".join(line for line, _ in found))
        if self.file.exists():
            with name_failed_writes(str(self.file), REMEDY):
                os.truncate(self.file, len(whole_lines(self.file)))

    def add(self, entries: Mapping[Any, Any]) -> None:
        """Keep results; they are on disk, safe from a kill and from a power cut, when this returns.

        Args:
            entries: by number, or by name.

        Raises:
            Refusal: if the disk is full.
        """
        text = "".join(line_of(entry, self._salt) for entry in entries.items())
        with name_failed_writes(str(self.file), REMEDY), self.file.open("a", encoding="utf-8") as lines:
            lines.write(text)
            lines.flush()
            os.fsync(lines.fileno())
        self.done.update(entries)


def line_of(entry: tuple[Any, Any], salt: int = 0) -> str:
    """A line of a ledger: what was found, and its checksum.

    Args:
        salt: the checksum of what the ledger is of.
    """
    text = json.dumps(list(entry))
    return f'{text[:-1]}, "{crc32(text.encode(), salt):08x}"]\n'


def entry_in(line: bytes, salt: int = 0) -> tuple[Any, Any] | None:
    """What a line says, None if it is damaged."""
    try:
        *entry, checksum = json.loads(line)
        row, result = entry
        whole = line_of((row, result), salt) == line.decode()
    except (ValueError, TypeError):
        return None
    return (row, result) if whole else None


def whole_lines(file: Path) -> bytes:
    """What a file holds but for a line that a kill left unfinished at its end."""
    content = file.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def require_same(
    before: Mapping[str, Any], now: Mapping[str, Any], folder: Path, remedy: str = "choose another output_dir"
) -> None:
    """Raise a Refusal that says in what the results in a folder differ from those that are wanted."""
    wanted: dict[str, Any] = json.loads(json.dumps(now))
    changed = sorted(key for key in before.keys() | wanted.keys() if before.get(key) != wanted.get(key))
    if changed:
        said = ", ".join(f"{key} was {before.get(key)!r} and is {wanted.get(key)!r}" for key in changed)
        raise Refusal(f"{folder} holds results of something else: {said}; {remedy}.")


def write_json(file: Path, values: Mapping[str, Any], mark: str = "") -> None:
    """A JSON file that is there as a whole or not at all.

    Args:
        mark: what keeps the unfinished files of several writers apart.

    Raises:
        Refusal: if it cannot be written.
    """
    replace_file(file, as_json(values), mark)


def as_json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()


def write_named(file: Path, content: bytes) -> None:
    """Write a file that is there as a whole or not at all, and its digest into the list of its folder.

    Raises:
        Refusal: if it cannot be written.
    """
    name_written(file.parent, file.name, None)
    replace_file(file, content)
    name_written(file.parent, file.name, content)


def replace_file(file: Path, content: bytes, mark: str = "") -> None:
    """Write a file that is there as a whole or not at all, after a power cut too; see `write_json`."""
    unfinished = file.with_name(f"{file.name}{mark}.unfinished")
    with name_failed_writes(str(file), REMEDY):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        move_into_place(unfinished, file)


def move_into_place(unfinished: Path, file: Path) -> None:
    """Give a file its name when the disk holds it."""
    flush_file(unfinished)
    unfinished.replace(file)
    flush_file(file.parent)
