"""Several ways of doing the same, step by step in turn, so that a noisy machine is noisy for all of them."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch

from diffpo.data.pairs import Pairs
from diffpo.data.sampler import ProcessShare

Clock = Callable[[], float]


def clock_of(device: torch.device) -> Clock:
    """Seconds, read when the device has finished what it was given."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


@dataclass(eq=False)
class Turns(Pairs):
    """Batches for our loop, and between them steps of other loops; each of them is timed.

    Attributes:
        batches_of: the batch of each way of our loop.
        others: one step of each other way.
        rounds: how often everything has its turn.
        seconds: of each turn, by way.
    """

    batches_of: Mapping[str, Any]
    others: Mapping[str, Callable[[], object]]
    rounds: int
    clock: Clock
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self):
        self.seconds |= {name: [] for name in (*self.batches_of, *self.others)}

    @property
    def size(self) -> int:
        return len(next(iter(self.batches_of.values())).row)

    def batches(self, share: ProcessShare) -> Iterator[Any]:
        for _ in range(self.rounds):
            for name, raw in self.batches_of.items():
                began = self.clock()
                yield raw
                self.seconds[name].append(self.clock() - began)
            for name, step in self.others.items():
                began = self.clock()
                step()
                self.seconds[name].append(self.clock() - began)


def in_turn(steps: Mapping[str, Callable[[], object]], rounds: int, clock: Clock) -> dict[str, list[float]]:
    """Seconds of each step, where none of them is our loop's."""
    turns = Turns({}, steps, rounds, clock)
    assert not list(turns.batches(ProcessShare(1, 0)))
    return turns.seconds


def ratio(slower: list[float], faster: list[float]) -> float:
    """How many times as long the first takes: the median over rounds, so one disturbed round counts for nothing."""
    return median(a / b for a, b in zip(slower, faster, strict=True))


def bootstrap_median(ratios: np.ndarray) -> tuple[float, float, float]:
    """The median and the middle 95 % of medians of resampled rounds."""
    resampled = np.random.default_rng(0).choice(ratios, (1000, len(ratios)))
    low, high = np.quantile(np.median(resampled, axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)
