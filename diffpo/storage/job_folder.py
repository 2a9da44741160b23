"""A folder that hours of work fill: refused early if it cannot be used, resumed after a kill, finished as a whole."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import Accelerator, InitProcessGroupKwargs, PartialState
from accelerate.utils import gather_object, parse_flag_from_env

from diffpo.core.refusal import Refusal
from diffpo.processes.everyone import on_main
from diffpo.processes.launchers import require_joined
from diffpo.storage.digests import (
    FILES,
    digest_of,
    entry_of,
    flush_file,
    not_as_written,
    read_json,
    require_written,
    written_in,
    wrong_file,
)
from diffpo.storage.files import CONFIG, name_failed_writes
from diffpo.storage.ledger import IDENTITY, REMEDY, Ledger, as_json, replace_file, require_same, write_json
from diffpo.storage.lock import Lock, require_ours, take_lock

log = logging.getLogger(__name__)

WAIT = timedelta(days=7)  # until the slowest process is done; torch gives up after minutes


def join_processes() -> Accelerator:
    """The processes that share the work.

    Raises:
        Refusal: if the launcher started some that do not know of one another.
    """
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)])
    require_joined(accelerator.num_processes)
    return accelerator


def meet_processes() -> PartialState:
    """The same for work that trains in between: an accelerator would settle the precision of that.

    Raises:
        Refusal: as `join_processes`.
    """
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=WAIT)
    require_joined(state.num_processes)
    return state


@dataclass(frozen=True)
class JobFolder:
    """Results gather in a hidden folder inside; a summary, written last, tells that they are all there.

    `files.json` names them, and the summary, with their digests.

    Attributes:
        summary: name of the file that is written last.
        hidden: name of the folder for what is unfinished; hidden, so that `datasets` does not take it for data.
        ending: of the files that are results.
        remade: whether a result that is damaged is made anew without the others.
    """

    path: Path
    summary: str
    hidden: str
    ending: str
    remade: bool = False

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
            Refusal: if a file is not what was written, and cannot be made anew without the others.
            Refusal: if another program has the folder, or it cannot be written.
        """
        on_main(lambda: self._whole(identity) or self._lock)
        return self._summary(identity)

    def _whole(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """The summary, if the files are what was written."""
        if (summary := self._summary(identity)) is None:
            return None
        if self.remade and (wrong := not_as_written(self.path, written_in(self.path) or {})):
            log.warning(f"{self.path} is damaged: {'; '.join(wrong.values())}. That is made anew.")
            (self.path / self.summary).unlink()
            return None
        require_written(self.path, [self.summary], "copy it again, or remove it and begin anew")
        return summary

    def _summary(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        if not (self.path / self.summary).exists():
            return None
        summary = read_json(self.path / self.summary)
        require_same({key: summary.get(key) for key in identity}, identity, self.path)
        return summary

    @cached_property
    def _lock(self) -> Lock:
        """It goes with the folder of what is unfinished."""
        return take_lock(self.unfinished, self.kind, lambda names: True)

    def require_room(self, what: str, needed: float | int, others: str = "") -> None:
        """Raise a Refusal if what is still missing will not fit on the disk.

        Args:
            needed: bytes of the whole, about.
            others: further remedies.
        """
        left = needed - sum(file.stat().st_size for file in self.path.rglob(f"*{self.ending}"))
        if left > (free := shutil.disk_usage(self.path).free):
            raise Refusal(
                f"{what} need about {left / 2**30:.2f} GiB, the disk of {self.path} has {free / 2**30:.2f} GiB free: "
                f"free some space, or choose another output_dir{others}."
            )

    def keep(self, *names: str) -> None:
        """Count results that were written into the folder of what is unfinished as there, when the disk holds them.

        Raises:
            Refusal: if it cannot be written.
        """
        with name_failed_writes(str(self.unfinished), REMEDY):
            for name in names:
                flush_file(self.unfinished / name)
            flush_file(self.unfinished)
        self._kept.add({name: digest_of(self.unfinished / name) for name in names})

    @cached_property
    def _kept(self) -> Ledger:
        return Ledger(self.unfinished / "files", {"of": self.kind}, PartialState().process_index)

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of the results that are not there yet, or are not what was written, which is told.

        All processes have to call this, and share the reading.
        """
        state, known = PartialState(), self._known(self._kept)
        wrong = {}
        for name in names[state.process_index :: state.num_processes]:
            places = [root for root in (self.unfinished, self.path) if (root / name).exists()]
            if not places or name not in known:
                wrong[name] = ""
            elif said := wrong_file(places[0], name, known[name]):
                wrong[name] = said
        found: dict[str, str] = {name: said for some in gather_object([wrong]) for name, said in some.items()}
        if state.is_main_process and (told := [said for said in found.values() if said]):
            log.warning(f"{self.path} is damaged: {'; '.join(told)}. That is made anew.")
        return [name for name in names if name in found]

    def _known(self, kept: Ledger) -> dict[str, Any]:
        """Digests by name of the results that were written."""
        named = written_in(self.path) if (self.path / FILES).exists() else None
        return {**(named or {}), **kept.done}

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
            require_same(read_json(file), identity, self.path)
        else:
            write_json(file, identity, f".{rank}")

    def gather(self) -> None:
        """The results to their place."""
        with name_failed_writes(f"The shards in {self.path}", REMEDY):
            for file in self.unfinished.glob(f"*{self.ending}"):
                file.rename(self.path / file.name)

    def finish(self, about: Mapping[str, Any], names: Sequence[str]) -> None:
        """The results to their place, then what tells that they are all there.

        Args:
            names: of the results, and of what else belongs to them.
        """
        self.gather()
        known, content = self._known(Ledger(self._kept.folder, {"of": self.kind})), as_json(about)
        with name_failed_writes(str(self.path), REMEDY):
            for name in names:
                flush_file(self.path / name)
            files = {name: known.get(name) or digest_of(self.path / name) for name in names}
        write_json(self.path / FILES, {"files": {**files, self.summary: entry_of(content)}})
        replace_file(self.path / self.summary, content)
        shutil.rmtree(self.unfinished)


def tell_result(folder: Path, was_finished: bool, settings: str, done: str, sentence: str) -> None:
    """What a script that fills a folder says at its end; its settings go beside what it made, if a kill kept those of
    the script that made it from there.

    Args:
        was_finished: before the script ran, so that it did nothing.
        done: what would have been done to the pairs, e.g. "scored".
    """
    if was_finished:
        print(f"{folder} was finished already, nothing was {done}.")
    if not was_finished or not (folder / CONFIG).exists():
        replace_file(folder / CONFIG, settings.encode())
    print(sentence)
