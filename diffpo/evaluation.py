"""Judging pictures by pairs: the same prompts and seeds for every model, win rates with intervals."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float


class Evaluation(ABC):
    """Measures models side by side at the end of a run."""

    @abstractmethod
    def __call__(self, pipelines: dict[str, Any], output_dir: Path, seed: int) -> None:
        """Write `report.json` and pictures.

        Args:
            pipelines: by name, the untuned "base" first.
            seed: of the training run, for the record: evaluation has its own.
        """


@dataclass(frozen=True)
class WinRate:
    """How often one model beats another; a tie counts half.

    Attributes:
        low, high: ends of the bootstrap interval over prompts.
    """

    rate: float
    low: float
    high: float


def win_rate(
    ours: Float[np.ndarray, "prompts pictures"],
    theirs: Float[np.ndarray, "prompts pictures"],
    resamples: int = 10_000,
    level: float = 0.95,
) -> WinRate:
    """Paired win rate of scores on the same prompts and seeds, with a percentile bootstrap interval over prompts."""
    wins = np.where(ours == theirs, 0.5, ours > theirs).mean(axis=1)
    picks = np.random.default_rng(0).integers(len(wins), size=(resamples, len(wins)))
    low, high = np.quantile(wins[picks].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return WinRate(float(wins.mean()), float(low), float(high))


def versions() -> dict[str, str]:
    """Of everything that could change a result."""
    return {
        name: version(name) for name in ("diffpo", "torch", "diffusers", "transformers", "peft", "numpy", "pillow")
    }
