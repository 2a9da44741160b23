"""Programs that this one starts: a signal reaches them too, and this one ends when they have."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffpo.core.refusal import Refusal
from diffpo.processes.stopping import AGAIN, SIGNALS, Stopped, hear_signals, tell_line

NAMES = {int(number): number.name for number in SIGNALS}


class Children:
    """Programs that are started, by any thread, and get the signals that this one gets.

    Attributes:
        number: of the first signal; 0 as long as none has come.
    """

    def __init__(self):
        self.number, self._running = 0, set[subprocess.Popen]()

    def run(
        self, command: Sequence[str], log: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a program and wait for its end.

        Args:
            log: what it says is added there; null is where this one speaks.
            environment: null is that of this one.

        Raises:
            Stopped: if a signal has come; then nothing is started any more.
            Refusal: if it fails.
        """
        if self.number:
            raise Stopped(self.number, AGAIN)
        with log.open("a") if log else nowhere() as said:
            errors = subprocess.STDOUT if log else None
            child = subprocess.Popen(command, stdout=said, stderr=errors, env=environment)
            self._running.add(child)
            if self.number:  # it came while the program was started
                child.send_signal(self.number)
            child.wait()
        self._running.discard(child)
        if self.number:
            raise Stopped(self.number, AGAIN)
        if child.returncode:
            words = " ".join(command[1:] if command[0] == sys.executable else command)
            where = f"{log} says why" if log else "it has said why"
            raise Refusal(
                f"{words} ended with {child.returncode}; {where}. Mend that, then run the same command again."
            )

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Inside, signals are handed on.

        Raises:
            Stopped: if one has come and the block came to its end all the same.
        """
        self.number = 0
        with hear_signals(self.hear):
            yield
        if self.number:
            raise Stopped(self.number, AGAIN)

    def hear(self, number: int, frame: Any) -> None:
        """Hand a signal on; a second one ends the programs at once, and this one after them."""
        running = [child for child in list(self._running) if child.poll() is None]
        if not self.number:
            self.number = number
            tell_line(f"{NAMES[number]}: handed on to {len(running)} programs, which end after the work in hand.")
        for child in running:
            child.send_signal(number)


@contextmanager
def nowhere() -> Iterator[None]:
    yield
