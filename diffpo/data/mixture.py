"""Several sources in one run, and whose turn it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from diffpo.core.refusal import Refusal
from diffpo.data.source import Layout, Source

GOLDEN = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio
BLOCK = 1 << 16


@dataclass(frozen=True)
class Mixed(Source):
    """Pairs from several sources of any layouts; each has epochs of its own, and every batch nearly the right shares.

    The row maps go over all of them, so a column that a map reads must be in each. Row ids count on from one source to
    the next (in a stream: position times number of sources, plus number of the source).

    Args:
        sources: e.g. diffpo.data.Columns and diffpo.data.HPDv2.
        weights: each source's share of the visits, in any unit; null takes their numbers of pairs, which a
            stream does not know.

    Raises:
        Refusal: if there is no source, a weight is missing or not positive, or a stream has none.
    """

    sources: list[Layout]
    weights: list[float] | None = None

    def __post_init__(self):
        weights = self.weights
        if not self.sources or (weights and (len(weights) != len(self.sources) or min(weights) <= 0)):
            raise Refusal(
                f"Mixed needs sources, and a positive weight for each, got {len(self.sources)} and {weights}."
            )

    @property
    def layouts(self) -> tuple[Layout, ...]:
        return tuple(self.sources)

    def shares(self, sizes: Sequence[int | None]) -> tuple[float, ...]:
        if self.weights:
            return tuple(map(float, self.weights))
        if None in sizes:
            raise Refusal("Streams do not know how many pairs they hold; give data.source.weights to mix them.")
        return tuple(float(size) for size in sizes if size is not None)


def interleave_sources(weights: Sequence[float], begin: int = 0) -> Iterator[tuple[int, int]]:
    """For each position from `begin` on: whose turn it is, and how often it was their turn before.

    Position p goes to the source in whose part of [0, 1) the p-th number of the golden-ratio sequence falls. Of all
    sequences p * a mod 1 this one is the most even (Knuth, The Art of Computer Programming, volume 3, section 6.4), so
    any few positions in a row have nearly the right shares. It is computed in integers, alike on every machine.
    """
    edges = np.cumsum(weights)[:-1] / sum(weights)
    before = np.zeros(len(weights), dtype=np.int64)
    for block in count(0, BLOCK):
        golden = np.arange(block, block + BLOCK, dtype=np.uint64) * np.uint64(GOLDEN) >> np.uint64(11)
        sources = np.searchsorted(edges, golden * 2.0**-53, side="right")
        if block + BLOCK > begin:
            yield from number_turns(sources, before, begin - block)
        before += np.bincount(sources, minlength=len(weights))


def number_turns(sources: np.ndarray, before: np.ndarray, begin: int) -> Iterator[tuple[int, int]]:
    """The turns of one block from its position `begin` on."""
    visits = before.tolist()
    for position, source in enumerate(sources.tolist()):
        if position >= begin:
            yield source, visits[source]
        visits[source] += 1
