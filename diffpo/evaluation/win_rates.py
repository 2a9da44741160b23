"""Judging models by pairs: the same prompts and seeds for every model, win rates with intervals."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diffpo.core.refusal import Refusal
from diffpo.evaluation.report import ModelPair, Report

Numbers = Mapping[str, np.ndarray]
ASPECTS = ("attributes", "facts", "whole", "style", "clean", "length", "drift", "pictured")


class Evaluation(ABC):
    """Measures models side by side at the end of a run."""

    @abstractmethod
    def __call__(self, pipelines: dict[str, Any], output_dir: Path, seed: int) -> None:
        """Write `report.json` and pictures; every process calls it, and they may share the work.

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
    """Paired win rate of scores on the same prompts and seeds, with a percentile bootstrap interval over prompts.

    A NaN (an unreadable picture) takes its comparison out; so does a prompt that has no other.

    Raises:
        Refusal: if nothing is left to compare.
    """
    unknown = np.isnan(ours) | np.isnan(theirs)
    known = ~unknown.all(axis=1)
    if not known.any():
        raise Refusal("No picture of both models can be read, so there is nothing to compare.")
    outcomes = np.where(unknown, np.nan, np.where(ours == theirs, 0.5, ours > theirs))
    wins = np.nanmean(outcomes[known], axis=1)
    low, high = bootstrap_interval(wins, resamples, level)
    return WinRate(float(wins.mean()), low, high)


def bootstrap_interval(
    by_prompt: Float[np.ndarray, " prompts"], resamples: int = 10_000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over prompts."""
    picks = np.random.default_rng(0).integers(len(by_prompt), size=(resamples, len(by_prompt)))
    low, high = np.quantile(by_prompt[picks].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarize_pictures(numbers: Numbers, scorers: Sequence[str]) -> dict[str, Any]:
    """A model's entry of a report: mean and median of each scorer, the mean of each aspect (all that is no scorer)."""
    aspects = {name: float(np.nanmean(values)) for name, values in numbers.items() if name not in scorers}
    scores = {
        name: {"mean": float(np.nanmean(numbers[name])), "median": float(np.nanmedian(numbers[name]))}
        for name in scorers
    }
    return aspects | {"scores": scores}


def compare_pairs(numbers: Mapping[str, Numbers], scorers: Sequence[str]) -> list[ModelPair]:
    """Every pair of models once, the later one first, by every scorer.

    Args:
        numbers: for each model and scorer, (prompts, pictures).
    """
    pairs = list[ModelPair]()
    for metric in scorers:
        for b, a in combinations(numbers, 2):
            rate = win_rate(numbers[a][metric], numbers[b][metric])
            named = ModelPair(
                a=a, b=b, metric=metric, win_rate=rate.rate, win_rate_low=rate.low, win_rate_high=rate.high
            )
            pairs.append(named)
    return pairs


def format_table(report: Report) -> str:
    """For the terminal: per scorer mean, median and win rate over the first model; then all the rest."""
    models, first = report["models"], next(iter(report["models"]))
    width = max(14, *(len(name) + 2 for name in (*models, *report["scorers"])))
    won = {(pair["a"], pair["metric"]): format_report(pair) for pair in report["pairs"] if pair["b"] == first}
    lines = []
    for metric in report["scorers"]:
        lines.append(f"{metric:<{width}}{'mean':>10}{'median':>10}{f'win rate over {first}':>28}")
        for name, entry in models.items():
            scores = entry["scores"][metric]
            rate = won.get((name, metric), "-")
            lines.append(f"{name:<{width}}{scores['mean']:>10.4f}{scores['median']:>10.4f}{rate:>28}")
        lines.append("")
    aspects = [name for name in (*ASPECTS, "diversity", "frechet") if models[first].get(name) is not None]
    if aspects:
        lines.append(" " * width + "".join(f"{aspect:>12}" for aspect in aspects))
    for name, entry in models.items() if aspects else ():
        lines.append(f"{name:<{width}}" + "".join(f"{entry[aspect]:>12.3f}" for aspect in aspects))
    return "\n".join(lines).strip("\n")


def cut_short(report: Report) -> list[str]:
    """Which scorers did not read all of the prompts."""
    return [
        f"{name} cuts {about['cut']} of {report['n_prompts']} prompts, which are longer than it reads: what they "
        "say further on it cannot judge."
        for name, about in report["scorers"].items()
        if about["cut"]
    ]


def format_report(pair: Mapping[str, Any]) -> str:
    return f"{pair['win_rate']:.1%} [{pair['win_rate_low']:.1%}, {pair['win_rate_high']:.1%}]"


def list_versions() -> dict[str, str]:
    """Of everything that could change a result."""
    return {
        name: version(name) for name in ("diffpo", "torch", "diffusers", "transformers", "peft", "numpy", "pillow")
    }
