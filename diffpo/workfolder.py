"""A folder that hours of work fill: refused early if it cannot be used, resumed after a kill, finished as a whole."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import Accelerator, InitProcessGroupKwargs

from diffpo.checkpoint import CONFIG
from diffpo.everyone import on_main
from diffpo.files import writing
from diffpo.launchers import require_joined
from diffpo.ledger import IDENTITY, REMEDY, require_same, write_json
from diffpo.lock import Lock, require_ours, take
from diffpo.refusal import Refusal

WAIT = timedelta(days=7)  # until the slowest process is done; torch gives up after minutes


def joined() -> Accelerator:
    """The processes that share the work.

    Raises:
        Refusal: if the launcher started some that do not know of one another.
    """
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)])
    require_joined(accelerator.num_processes)
    return accelerator


@dataclass(frozen=True)
class WorkFolder:
    """Results gather in a hidden folder inside; a summary, written last, tells that they are all there.

    Attributes:
        summary: name of the file that is written last.
        hidden: name of the folder for what is unfinished; hidden, so that `datasets` does not take it for data.
        ending: of the files that are results.
    """

    path: Path
    summary: str
    hidden: str
    ending: str

    @property
    def unfinished(self) -> Path:
        return self.path / self.hidden

    def require_ours(self) -> None:
        """Raise a Refusal, before anything is written, if the folder holds something that is not from here."""
        require_ours(self.path, self.kind, lambda names: names & {self.summary, self.hidden})

    @property
    def kind(self) -> str:
        return self.hidden.strip(".")

    def finished(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """The summary of finished work; None if it is not finished, and then other programs are kept from the folder,
        which is made if there is none, as long as this object lives. Every process has to call this.

        Raises:
            Refusal: if it is of other work; it says what differs.
            Refusal: if another program has the folder, or it cannot be written.
        """
        on_main(lambda: self._summary(identity) or self._lock)
        return self._summary(identity)

    def _summary(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        if not (self.path / self.summary).exists():
            return None
        summary = json.loads((self.path / self.summary).read_text())
        require_same({key: summary.get(key) for key in identity}, identity, self.path)
        return summary

    @cached_property
    def _lock(self) -> Lock:
        """It goes with the folder of what is unfinished."""
        return take(self.unfinished, self.kind, lambda names: True)

    def require_room(self, what: str, needed: float | int) -> None:
        """Raise a Refusal if what is still missing will not fit on the disk.

        Args:
            needed: bytes of the whole, about.
        """
        left = needed - sum(file.stat().st_size for file in self.path.rglob(f"*{self.ending}"))
        if left > (free := shutil.disk_usage(self.path).free):
            raise Refusal(
                f"{what} need about {left / 2**30:.2f} GiB, the disk of {self.path} has {free / 2**30:.2f} GiB free: "
                "free some space, or choose another output_dir."
            )

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of the results that are not there yet."""
        return [name for name in names if not any((root / name).exists() for root in (self.path, self.unfinished))]

    def begin(self, identity: Mapping[str, Any], rank: int = 0) -> None:
        """Say what is unfinished here.

        Args:
            rank: number of this process; each calls this.

        Raises:
            Refusal: if something else is; it says what differs.
            Refusal: if the folder cannot be written.
        """
        file = self.unfinished / IDENTITY
        if file.exists():
            require_same(json.loads(file.read_text()), identity, self.path)
        else:
            write_json(file, identity, f".{rank}")

    def gather(self) -> None:
        """The results to their place."""
        with writing(f"The shards in {self.path}", REMEDY):
            for file in self.unfinished.glob(f"*{self.ending}"):
                file.rename(self.path / file.name)

    def finish(self, about: Mapping[str, Any]) -> None:
        """The results to their place, then what tells that they are all there."""
        self.gather()
        write_json(self.path / self.summary, about)
        shutil.rmtree(self.unfinished)


def tell(folder: Path, was_finished: bool, settings: str, done: str, sentence: str) -> None:
    """What a script that fills a folder says at its end; its settings go beside what it made.

    Args:
        was_finished: before the script ran, so that it did nothing.
        done: what would have been done to the pairs, e.g. "scored".
    """
    if was_finished:
        print(f"{folder} was finished already, nothing was {done}.")
    else:
        with writing(f"{folder}/{CONFIG}", REMEDY):
            (folder / CONFIG).write_text(settings)
    print(sentence)
