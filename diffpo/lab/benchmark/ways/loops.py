"""Whole training loops, each of which waits for its turn before every step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Semaphore, Thread
from typing import Any

from diffpo.data.pairs import Pairs
from diffpo.data.sampler import ProcessShare


class Loop:
    """A training loop that waits for its turn before each step; it runs in a thread of its own.

    Args:
        run: the loop; it calls what it is given between two steps.
    """

    def __init__(self, run: Callable[[Callable[[], None]], None]):
        self.go, self.done, self.error = Semaphore(0), Semaphore(0), None
        self.thread = Thread(target=self._run, args=(run,), daemon=True)
        self.thread.start()
        self._wait()

    def __call__(self) -> None:
        """One step."""
        self.go.release()
        self._wait()

    def end(self) -> None:
        """Let it take the steps that are left."""
        while self.thread.is_alive():
            self.go.release()
            self.thread.join(0.01)

    def _turn(self) -> None:
        self.done.release()
        self.go.acquire()

    def _wait(self) -> None:
        self.done.acquire()
        if self.error:
            raise self.error

    def _run(self, run: Callable[[Callable[[], None]], None]) -> None:
        try:
            run(self._turn)
        except BaseException as error:  # it belongs to the thread that waits
            self.error = error
        self.done.release()


@dataclass(eq=False)
class InTurn(Pairs):
    """Pairs that wait before each batch; reading the next one counts to the step before."""

    pairs: Pairs
    turn: Callable[[], None]

    @property
    def size(self) -> int | None:
        return self.pairs.size

    def batches(self, share: ProcessShare) -> Iterator[Any]:
        for batch in self.pairs.batches(share):
            self.turn()
            yield batch
