"""Randomness that is keyed, not streamed."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Random numbers about b rows, each a function of (seed, epoch, row, name) and of nothing else.

    No draw depends on the batch a row stands in, the number of processes or workers, the device, or on what was drawn
    before. So a resumed run needs no generator state, and two rows never share noise while the two sides of a pair
    always do. Numbers come from Philox (Salmon et al., SC 2011) in fp32 on the CPU and are then moved to `device`.

    Attributes:
        epoch: one per row, since a batch may straddle epochs.
        row: ids of the rows.
    """

    seed: int
    epoch: tuple[int, ...]
    row: tuple[int, ...]
    device: torch.device = torch.device("cpu")

    def normal(self, name: str, *shape: int) -> Float[Tensor, "b ..."]:
        return self._draw(name, lambda rng: rng.standard_normal(shape, dtype=np.float32))

    def uniform(self, name: str) -> Float[Tensor, " b"]:
        return self._draw(name, lambda rng: rng.random(dtype=np.float32))

    def uniforms(self, name: str, *shape: int) -> Float[Tensor, "b ..."]:
        """Uniform numbers in [0, 1) in fp64, which tell apart what fp32 cannot: the tokens of a large vocabulary.

        The first of n numbers are those of any larger n.
        """
        return self._draw(name, lambda rng: rng.random(shape))

    def integers(self, name: str, high: int) -> Int[Tensor, " b"]:
        return self._draw(name, lambda rng: rng.integers(high))

    def of(self, which: Sequence[int]) -> "Draws":
        """The draws of some of the rows, in this order."""
        return replace(self, epoch=tuple(self.epoch[i] for i in which), row=tuple(self.row[i] for i in which))

    def _draw(self, name: str, draw: Callable[[np.random.Generator], object]) -> Tensor:
        rngs = (self._generator(name, epoch, row) for epoch, row in zip(self.epoch, self.row, strict=True))
        drawn = torch.from_numpy(np.stack([np.asarray(draw(rng)) for rng in rngs]))
        return drawn.to(self.device, non_blocking=True)

    def _generator(self, name: str, epoch: int, row: int) -> np.random.Generator:
        key = hashlib.blake2b(f"{self.seed}/{epoch}/{row}/{name}".encode(), digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
