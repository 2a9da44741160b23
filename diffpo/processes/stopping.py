"""Ctrl-C and the signals of schedulers end long work in order: after the item in hand, saying how it goes on."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch.distributed
from accelerate import Accelerator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
ECHO = 2.0  # seconds in which a signal counts once: a launcher hands on what the terminal has sent to all already
AGAIN = "What is done is kept, and the same command goes on with the rest."


class Stopped(KeyboardInterrupt):
    """A signal ended the work. What it says is for the user: what was kept, and how the work goes on.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int, said: str = ""):
        super().__init__(said)
        self.number = number

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name


class Stop:
    """Whether a signal has asked a block of work to end.

    Attributes:
        number: of the signal; 0 as long as none has come.
        said: by whom is stopped here.
    """

    def __init__(self, said: str):
        self.said, self.number, self._since = said, 0, 0.0

    def hear(self, number: int, frame: Any) -> None:
        """The first signal is noted, a second one ends the process at once."""
        if not self.number:
            self.number, self._since = number, time.monotonic()
            tell_line(f"{signal.Signals(number).name}: ending after the work in hand; a second signal ends at once.")
        elif time.monotonic() - self._since > ECHO:
            os._exit(128 + number)

    def here(self) -> None:
        """End if that was asked; to be called between two items.

        Raises:
            Stopped: if a signal has come.
        """
        if self.number:
            raise Stopped(self.number, self.said)

    def everywhere(self, accelerator: Accelerator) -> int:
        """The number of a signal that any process has got, 0 if none has; all processes call it, and all agree."""
        if accelerator.num_processes == 1:
            return self.number
        numbers: Any = accelerator.gather(torch.tensor([self.number], device=accelerator.device))
        return int(numbers.max())


@contextmanager
def end_in_order(said: str = AGAIN) -> Iterator[Stop]:
    """Inside, the first signal only asks: the work ends where it calls `Stop.here`, or at the end of the block.

    Python lets only the main thread hear signals; in another one nothing changes.

    Raises:
        Stopped: if a signal has come, and the block did not end by an error of its own.
    """
    stop = Stop(said)
    with hear_signals(stop.hear):
        try:
            yield stop
        except RuntimeError as error:
            if not stop.number:
                raise
            raise Stopped(stop.number, stop.said) from error  # e.g. another process has heard the signal, and is gone
    stop.here()


@contextmanager
def hear_signals(handler: Any) -> Iterator[None]:
    """Inside, the handler hears the signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, signal.SIG_DFL if former is None else former)


def end_at_once(number: int, frame: Any) -> NoReturn:
    """What a signal does to a program outside of `end_in_order`.

    Raises:
        Stopped: always.
    """
    raise Stopped(number)


def leave_to_main(worker: int = 0) -> None:
    """In a process that reads data: a signal to the whole group is for the main process, which ends its workers.

    They would otherwise print a traceback each, or be gone before the step in hand has its data. Linux says who sent a
    SIGTERM; elsewhere the first one ends a worker, whoever sent it.
    """
    for number in {*SIGNALS} - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=obey_main, args=(os.getppid(),), daemon=True).start()


def obey_main(main: int) -> None:
    """End when the main process says so."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main:
        pass
    os._exit(0)


def tell_line(text: str) -> None:
    """A line of the main process, also from within a handler, where `print` may not be entered again."""
    if is_main():
        sys.stderr.flush()
        os.write(2, f"\n{text}\n".encode())


def is_main() -> bool:
    """Whether this is the first or only process."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
