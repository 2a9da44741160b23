"""One program per folder: two would mix their files."""

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from diffpo.core.refusal import Refusal
from diffpo.storage.files import name_failed_writes

LOCK = ".diffpo.lock"
MOST = 2**12  # bytes that it holds
OTHERWISE = "choose another output_dir"
HARMLESS = (".*", "log.txt", "*.log", "*.out", "*.err", "overrides.json")  # what may lie there before a program starts

log = logging.getLogger(__name__)


class Lock:
    """A folder that is kept from other programs as long as this object, and this process, live.

    It is a lock of the operating system (flock) on a file in the folder, so that no death leaves it behind. Processes
    that are forked from this one, as those that read data, do not hold it. On NFS it needs a server that locks, as
    those of version 4 do, and mounts without `nolock`; where locks are not to be had, that is told and nothing else is
    done.

    Args:
        folder: made if there is none.
        wait: for whoever has the folder, instead of being refused.

    Raises:
        Refusal: if another program has the folder; it says which.
        Refusal: if it cannot be written.
    """

    _file: int | None = None

    def __init__(self, folder: Path, wait: bool = False):
        with name_failed_writes(f"The folder {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        self.folder = folder
        living.add(self)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise Refusal(f"{folder} is in use by {find_holder(folder)}; wait for it, or {OTHERWISE}.") from error
            log.warning(f"{folder} cannot be locked ({error}); see that no other program writes there.")

    def sign(self, kind: str) -> None:
        """Say in the file who has the folder, and for what kind of work, e.g. "training": such work knows it by that.

        Raises:
            Refusal: if it cannot be written.
        """
        assert self._file is not None
        about = {"kind": kind, "pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
        with name_failed_writes(f"{self.folder / LOCK}", "the same command then goes on"):
            # In place, and blank to the end: a full disk or a kill never leaves less than what stood there.
            before = os.pread(self._file, MOST, 0)
            text = json.dumps(about).encode().ljust(len(before))
            if os.pwrite(self._file, text, 0) < len(text):
                os.pwrite(self._file, before, 0)
                os.ftruncate(self._file, len(before))
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def release(self) -> None:
        """Let others in."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self):
        self.release()


living: WeakSet[Lock] = WeakSet()
held: WeakValueDictionary[Path, Lock] = WeakValueDictionary()


def let_go() -> None:
    """In a process that was forked: whoever forked it keeps its folders alone."""
    for lock in list(living):
        lock.release()
    held.clear()


os.register_at_fork(after_in_child=let_go)


def take_lock(folder: Path, kind: str, is_ours: Callable[[set[str]], Any] = lambda names: False) -> Lock:
    """Keep a folder for this program; one that this process has already is given again.

    Args:
        kind: see `Lock.sign`.
        is_ours: whether a folder with these names in it is one that such work has left, though nothing says so.

    Raises:
        Refusal: before anything is written, if the folder holds what others have left, or another program has it.
        Refusal: if it cannot be written.
    """
    require_ours(folder, kind, is_ours)
    if (mine := held.get(folder.resolve())) is None:
        mine = Lock(folder)
        require_ours(folder, kind, is_ours)  # another one may have come and gone
        mine.sign(kind)
        held[folder.resolve()] = mine
    return mine


def require_ours(folder: Path, kind: str, is_ours: Callable[[set[str]], Any]) -> None:
    """Raise a Refusal, saying what was found, if a folder is not empty and was not begun by work of this kind."""
    if folder.is_file():
        raise Refusal(f"output_dir {folder} is a file; {OTHERWISE}.")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    begun = begun_by(folder)
    if begun is None and not is_ours(names):
        foreign = sorted(name for name in names if not any(fnmatch(name, harmless) for harmless in HARMLESS))
        if foreign:
            more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
            raise Refusal(
                f"output_dir {folder} is not empty: it holds {', '.join(foreign[:3])}{more}, which no {kind} has left "
                f"there; {OTHERWISE}."
            )
    if begun is not None and begun != kind:
        raise Refusal(f"output_dir {folder} holds {begun}, not {kind}; {OTHERWISE}.")


def begun_by(folder: Path) -> str | None:
    """The kind of work that began a folder; None if none did, or nothing tells."""
    return read_lock(folder).get("kind")


def find_holder(folder: Path) -> str:
    """Who has a folder, as far as is known."""
    said = read_lock(folder)
    if not said:
        return "another program"
    return f"process {said.get('pid')} on {said.get('host')} ({said.get('kind')} since {said.get('since')})"


def read_lock(folder: Path) -> dict[str, Any]:
    """What the last program that had a folder says of itself; nothing if that cannot be read."""
    try:
        said = json.loads((folder / LOCK).read_bytes())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
