"""Which pairs a run visits, and in what order: a pure function of seed and position."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Int
from torch.utils.data import Sampler

from diffpo.data.mixture import interleave_sources


@dataclass(frozen=True)
class ProcessShare:
    """Which batches of the run's one endless sequence of visits are this process's own.

    Attributes:
        batch: pairs per batch on this process.
        world: number of processes; they take turns, batch by batch.
        first: number of the first batch.
    """

    batch: int
    seed: int
    rank: int = 0
    world: int = 1
    first: int = 0

    def positions(self, n: int) -> range:
        """Which visits make batch n of this process."""
        begin = (n * self.world + self.rank) * self.batch
        return range(begin, begin + self.batch)


class Visit(NamedTuple):
    """One visit of one pair; `index` counts the pairs of its table that were kept."""

    epoch: int
    index: int
    table: int = 0


class Grouping(ABC):
    """Pairs of a table that stand together, and so decide what an epoch is."""

    @property
    @abstractmethod
    def epoch(self) -> int:
        """Visits in an epoch."""

    @abstractmethod
    def grouped(self, order: Int[np.ndarray, " n"], rng: np.random.Generator) -> Int[np.ndarray, " m"]:
        """The visits of an epoch, given all pairs in a new order."""


@dataclass(frozen=True, eq=False)
class Users(Grouping):
    """Users who are visited equally often, however many pairs they have.

    Attributes:
        of: number of each pair's user.
        each: visits of each user in an epoch: to a part of the pairs, another one in each epoch, or to all of them
            again and again.
    """

    of: Int[np.ndarray, " n"]
    each: int

    @cached_property
    def epoch(self) -> int:
        return len(np.unique(self.of)) * self.each

    def grouped(self, order: Int[np.ndarray, " n"], rng: np.random.Generator) -> Int[np.ndarray, " m"]:
        _, counts = np.unique(self.of, return_counts=True)
        by_user = np.split(order[np.argsort(self.of[order], kind="stable")], np.cumsum(counts)[:-1])
        return rng.permutation(np.concatenate([np.resize(pairs, self.each) for pairs in by_user]))


@dataclass(frozen=True, eq=False)
class Shapes(Grouping):
    """Shapes of a table's pictures, if they are not all the same: only pairs of one shape make a batch.

    Attributes:
        of: number of each pair's shape.
        together: pairs of one shape that follow one another. A shape whose pairs do not fill their last group fills it
            with its first pairs again, which are then visited twice in that epoch.
    """

    of: Int[np.ndarray, " n"]
    together: int

    @cached_property
    def epoch(self) -> int:
        _, counts = np.unique(self.of, return_counts=True)
        return int((-(-counts // self.together) * self.together).sum())

    def grouped(self, order: Int[np.ndarray, " n"], rng: np.random.Generator) -> Int[np.ndarray, " m"]:
        """The same order with pairs of one shape together, group by group."""
        _, counts = np.unique(self.of, return_counts=True)
        by_shape = order[np.argsort(self.of[order], kind="stable")]
        groups = [
            np.resize(same, (-(-len(same) // self.together), self.together))
            for same in np.split(by_shape, np.cumsum(counts)[:-1])
        ]
        return rng.permutation(np.concatenate(groups)).ravel()


@dataclass(frozen=True, eq=False)
class Lengths(Grouping):
    """Rows of similar length follow one another, so that a batch of texts is padded little.

    Each epoch visits every row once: a new order is cut into windows, and each window is sorted by length and cut into
    groups, which are then shuffled over the epoch.

    Attributes:
        of: each row's length, in any unit.
        together: rows of similar length that follow one another.
    """

    of: Int[np.ndarray, " n"]
    together: int

    WINDOW: ClassVar[int] = 64  # groups; the more, the more alike are the lengths in one, and the less new its rows

    @property
    def epoch(self) -> int:
        return len(self.of)

    def grouped(self, order: Int[np.ndarray, " n"], rng: np.random.Generator) -> Int[np.ndarray, " m"]:
        window = self.WINDOW * self.together
        groups = list[np.ndarray]()
        for begin in range(0, len(order), window):
            some = order[begin : begin + window]
            alike = some[np.argsort(self.of[some], kind="stable")]
            groups += [alike[i : i + self.together] for i in range(0, len(alike), self.together)]
        return np.concatenate([groups[i] for i in rng.permutation(len(groups))])


@dataclass(frozen=True)
class PairSampler(Sampler[list[Visit]]):
    """Endless batches; batch n of a process is a pure function of (seed, n), so resuming means starting at n.

    Each epoch of a table visits every row once in a new order; a batch may straddle two epochs, nothing is dropped.

    Attributes:
        sizes: pairs in an epoch of each table.
        weights: share of the visits that each table gets.
        cycle: epochs after which the draws about a pair repeat, though not the order; None is never.
        groups: of the one table, if some of its pairs stand together.
    """

    sizes: tuple[int, ...]
    share: ProcessShare
    weights: tuple[float, ...] = (1.0,)
    cycle: int | None = None
    groups: Grouping | None = None

    def __iter__(self) -> Iterator[list[Visit]]:
        share, orders = self.share, dict[int, tuple[int, np.ndarray]]()
        visits = interleave_sources(self.weights, share.first * share.world * share.batch)
        while True:
            everyone = list(islice(visits, share.world * share.batch))
            yield [self.pick(*visit, orders) for visit in everyone[share.rank * share.batch :][: share.batch]]

    def pick(self, table: int, visit: int, orders: dict[int, tuple[int, np.ndarray]]) -> Visit:
        """The pair of a table's n-th visit; `orders` keeps the order of the epoch that each table is in."""
        epoch, i = divmod(visit, self.groups.epoch if self.groups else self.sizes[table])
        if table not in orders or orders[table][0] != epoch:
            # A seed's trailing zero changes nothing: table 0 has the order that a run of it alone has.
            rng = np.random.default_rng((self.share.seed, epoch, table))
            order = rng.permutation(self.sizes[table])
            orders[table] = epoch, self.groups.grouped(order, rng) if self.groups else order
        return Visit(epoch % self.cycle if self.cycle else epoch, int(orders[table][1][i]), table)
