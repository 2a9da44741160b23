"""Programs in processes of their own, to which something happens on the way: a signal, or a disk that is full."""

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from errno import ENOSPC
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

from campaigns.worlds import Work
from started import as_program
from tiny_runs import as_if_started_by_hand
from torch.optim.optimizer import register_optimizer_step_post_hook

from diffpo.storage import arrow

FILES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree", "shutil.copyfile"}
LIBRARIES = ["campaigns.libraries"]
LONGEST = 240.0  # seconds of a program


@dataclass(frozen=True)
class Blow:
    """What happens to a program, and when.

    Attributes:
        what: "kill", the name of a signal, "full" (from then on no file grows), "crowded" (from then on none is made).
        touch: it happens before the program touches its folder for the n-th time; 0 is at a time instead.
        until: what was full has room again before this touch; 0 is never.
        seconds: after the start.
        room: bytes that no file can outgrow, from the start; 0 is no limit.
    """

    what: str = ""
    touch: int = 0
    until: int = 0
    seconds: float = 0.0
    room: int = 0


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes:
        code: its exit code; that of a signal is negative.
        said: all that it wrote to its terminal.
        seconds: it took.
        touches: how often it touched its folder.
        steps: of optimisers that were whole by then.
        first: time of the first touch, in nanoseconds of one clock for all programs.
        last: that of the last one.
    """

    code: int
    said: str
    seconds: float
    touches: int
    steps: int
    first: int
    last: int

    @property
    def errors(self) -> list[str]:
        return [line for line in self.said.splitlines() if line.startswith("error: ")]

    @property
    def is_told(self) -> bool:
        """Whether it ended with one line that names a cause and a remedy."""
        return self.code == 1 and len(self.errors) == 1 and any(mark in self.errors[0] for mark in ("; ", ". "))

    @property
    def is_bare(self) -> bool:
        """Whether it showed a traceback."""
        return "Traceback (most recent call last)" in self.said


def begin_anew() -> None:
    """Have programs forked from a process with their libraries; other tests may have one with fewer."""
    server: Any = forkserver._forkserver
    server._stop()
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    first = context.Process(target=time.monotonic)
    first.start()
    first.join()  # so that the first program takes no longer than others


class Program:
    """A program that was started; `end` waits for it."""

    def __init__(self, work: Work, again: bool = False, blow: Blow = Blow()):
        context = multiprocessing.get_context("forkserver")
        self.reads, writes = context.Pipe(duplex=False)
        self.touched = context.RawArray("q", 4)
        given = work.words(again), work.folder, blow, writes, self.touched
        self.blow, self.said, self.began = blow, b"", time.perf_counter()
        self.process: Any = context.Process(target=begin, args=given)
        self.process.start()
        writes.close()
        self.reader = Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        while some := os.read(self.reads.fileno(), 2**16):
            self.said += some

    def end(self) -> Ended:
        if self.blow.what and not self.blow.touch:
            self.process.join(max(0.0, self.began + self.blow.seconds - time.perf_counter()))
            if self.process.is_alive():
                os.kill(self.process.pid, number_of(self.blow.what))
        self.process.join(LONGEST)
        assert self.process.exitcode is not None, f"it hangs: {self.said.decode()[-2000:]}"
        took = time.perf_counter() - self.began
        self.reader.join(10)
        self.reads.close()
        return Ended(self.process.exitcode, self.said.decode(errors="replace"), took, *self.touched)


def number_of(what: str) -> int:
    return signal.SIGKILL if what == "kill" else signal.Signals[what]


def begin(words: list[str], folder: Path, blow: Blow, writes: Connection, touched: Any) -> None:
    """In the new process: what a shell would do, and what is to happen."""
    os.setsid()
    os.environ["ACCELERATE_USE_CPU"] = "true"
    for stream in (1, 2):
        os.dup2(writes.fileno(), stream)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # outside of the programs' care Python shows a traceback
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    arrow.PER_FILE = 3
    register_optimizer_step_post_hook(lambda *_: touched.__setitem__(1, touched[1] + 1))
    if blow.room:
        resource.setrlimit(resource.RLIMIT_FSIZE, (blow.room, resource.RLIM_INFINITY))
    sys.addaudithook(watching(folder, blow, touched))
    as_if_started_by_hand(as_program, words)


def watching(folder: Path, blow: Blow, touched: Any) -> Callable[[str, Any], None]:
    """An audit hook that counts how often the folder is touched, and strikes."""

    def hear(event: str, arguments: Any) -> None:
        if event not in FILES or not isinstance(arguments[0], str | Path) or not str(arguments[0]).startswith(inside):
            return
        touched[0] += 1
        touched[3] = time.monotonic_ns()
        touched[2] = touched[2] or touched[3]
        if touched[0] == blow.touch:
            strike(blow.what)
        if touched[0] == blow.until:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        is_struck = blow.touch and blow.touch <= touched[0] and not 0 < blow.until <= touched[0]
        if is_struck and blow.what == "crowded" and makes(event, arguments):
            raise OSError(ENOSPC, os.strerror(ENOSPC), str(arguments[0]))

    inside = str(folder)
    return hear


def strike(what: str) -> None:
    if what == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    elif what != "crowded":
        os.kill(os.getpid(), number_of(what))


def makes(event: str, arguments: Any) -> bool:
    """Whether a file or folder comes to be that was not there."""
    is_new = not os.path.lexists(arguments[0])
    return event == "os.mkdir" or (event == "open" and bool(arguments[2] & os.O_CREAT) and is_new)
