"""Results that survive a kill: one line of JSON per row, in one file per process."""

import json
import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from diffpo.files import writing
from diffpo.refusal import Refusal

IDENTITY = "identity.json"
REMEDY = "the same command then goes on where it stopped"


class Ledger:
    """What was found for which row, by this and all former runs of the same work.

    The number of processes may change from run to run. What one process adds while another one opens may or may not be
    seen there, so processes that share out the missing rows wait for one another between opening and adding.

    Attributes:
        done: results by row, of all processes up to the opening, and what this one added since.

    Args:
        identity: what the results depend on.
        rank: number of this process; no two open a ledger with the same one.

    Raises:
        Refusal: if the folder holds results of another identity.
        Refusal: if the folder cannot be written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], rank: int = 0):
        self.file = folder / f"part-{rank:05d}.jsonl"
        if (folder / IDENTITY).exists():
            require_same(json.loads((folder / IDENTITY).read_text()), identity, folder)
        else:
            write_json(folder / IDENTITY, dict(identity), f".{rank}")
        self.done: dict[int, Any] = {}
        for part in sorted(folder.glob("part-*.jsonl")):
            self.done.update(json.loads(line) for line in BytesIO(whole_lines(part)))
        if self.file.exists():
            with writing(str(self.file), REMEDY):
                os.truncate(self.file, len(whole_lines(self.file)))

    def add(self, entries: Mapping[int, Any]) -> None:
        """Keep results; they are on disk, safe from a kill, when this returns.

        Raises:
            Refusal: if the disk is full.
        """
        text = "".join(json.dumps([row, result]) + "\n" for row, result in entries.items())
        with writing(str(self.file), REMEDY), self.file.open("a", encoding="utf-8") as lines:
            lines.write(text)
        self.done.update(entries)


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
    unfinished = file.with_name(f"{file.name}{mark}.unfinished")
    with writing(str(file), REMEDY):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(values, indent=2) + "\n")
        unfinished.replace(file)
