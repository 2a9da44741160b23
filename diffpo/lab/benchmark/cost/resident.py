"""Memory that a process really takes for one way of training, measured in a process of its own."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import psutil
import torch

from diffpo.lab.benchmark.ways.alone import step_alone
from diffpo.lab.benchmark.ways.case import Case
from diffpo.lab.benchmark.ways.turns import Clock

GIB = 2**30


def measure_peak(way: str, case: Case, steps: int = 3) -> float:
    """GiB that a step takes at most, measured in a fresh process: allocated on the GPU, or on a CPU resident beyond
    what the imports took. Loading and the first steps do not count."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_peak_here, (way, case, steps))


def measure_peak_here(way: str, case: Case, steps: int) -> float:
    """The same in this process, where what was done before counts too."""
    if case.device.type == "cuda":
        step_alone(way, case, steps, until_last(steps, partial(torch.cuda.reset_peak_memory_stats, case.device)))
        return torch.cuda.max_memory_allocated(case.device) / GIB
    with sample_memory() as sizes:
        before = sizes[0]
        step_alone(way, case, steps, until_last(steps, sizes.clear))
    return (max(sizes) - before) / GIB


def until_last(steps: int, forget: Callable[[], object]) -> Clock:
    """A clock that forgets what was measured whenever it is read before or after a step, but for the last time."""
    left = iter(range(2 * steps - 1, -1, -1))

    def clock() -> float:
        if next(left):
            forget()
        return 0.0

    return clock


@contextmanager
def sample_memory(seconds: float = 0.005) -> Iterator[list[int]]:
    """Resident bytes of this process, read every few milliseconds."""
    resident: Callable = psutil.Process().memory_info
    sizes, done = [resident().rss], threading.Event()

    def watch() -> None:
        while not done.wait(seconds):
            sizes.append(resident().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield sizes
    finally:
        done.set()
        watcher.join()


def fits(way: str, case: Case, gib: float) -> bool:
    """Whether a GPU that had no more memory than this could take the step; tried in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(tried, (way, case, gib))


def tried(way: str, case: Case, gib: float) -> bool:
    whole = torch.cuda.get_device_properties(case.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / whole), case.device)
    try:
        step_alone(way, case, 2, lambda: 0.0)
    except torch.OutOfMemoryError:
        return False
    return True
