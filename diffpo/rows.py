"""Pairs as data: one row per pair, and maps that relabel, reorder or drop rows."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from diffpo.draws import Draws


@dataclass(frozen=True)
class PairRow:
    """One pair (or list of k candidates) before anything is decoded; index 0 is the chosen side.

    A row of one candidate is unpaired data: `prob` says how desirable it is.

    Attributes:
        id: position in the source; with the seed and the epoch it is the key of every random draw about the pair.
        prompts: one per candidate; they differ only if the data have one caption per image.
        candidates: texts, or images that are read when they are needed.
        prob: P(chosen wins) in [0.5, 1], 0.5 being a tie; of one candidate, 1 if it is desirable and 0 if not.
        scores: what a scorer says of each candidate; zeros without one.
        weight: importance of the pair in the batch mean.
        extra: the source's other columns.
    """

    id: int
    prompts: tuple[str | None, ...]
    candidates: tuple[Any, ...]
    prob: float = 1.0
    scores: tuple[float, ...] = (0.0, 0.0)
    weight: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def swapped(self) -> "PairRow":
        """The same row with its sides exchanged; `prob` still belongs to the side that now stands first."""
        return replace(self, prompts=self.prompts[::-1], candidates=self.candidates[::-1], scores=self.scores[::-1])

    def column(self, name: str, asker: "RowMap") -> Any:
        if self.extra.get(name) is None:
            have = ", ".join(sorted(self.extra)) or "none"
            raise ValueError(
                f"{type(asker).__name__} needs column {name!r}, row {self.id} has no value there (other columns: "
                f"{have}); name another column, or add it with scripts/score_pairs.py."
            )
        return self.extra[name]


class RowMap(ABC):
    """Looks at one row at a time; None drops it, in a table once and for all, in a stream each time it comes."""

    @abstractmethod
    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None: ...


def mapped(row: PairRow, maps: list[RowMap], draws: Draws) -> PairRow | RowMap:
    """The row as the maps leave it, or the map that dropped it."""
    for row_map in maps:
        changed = row_map(row, draws)
        if changed is None:
            return row_map
        row = changed
    return row


@dataclass(frozen=True)
class DropTies(RowMap):
    """Drop rows without a winner. Without this map a tie counts as a soft label of one half."""

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return None if row.prob == 0.5 else row


@dataclass(frozen=True)
class BreakTies(RowMap):
    """Let a coin, fixed by the seed and the row, name the winner of a tie."""

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        if row.prob != 0.5:
            return row
        winner = replace(row, prob=1.0)
        return winner if draws.uniform("break_ties") < 0.5 else winner.swapped()


@dataclass(frozen=True)
class DropPromptless(RowMap):
    """Drop rows whose prompt is null. An empty string is a prompt."""

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return None if None in row.prompts else row


@dataclass(frozen=True)
class ScoreLabel(RowMap):
    """Let a scorer name the winner: prob = sigmoid of the gap of the normalised scores over `temperature`.

    A row with a null score is dropped: that picture could not be read. Scores of different scorers have different
    ranges (PickScore about 20, HPSv2 about 0.3); which one wrote the columns, and its range, is in scores.json.

    Args:
        columns: score of the chosen and of the rejected side, as the source orders them.
        low: score that is normalised to 0.
        high: score that is normalised to 1.

    Raises:
        ValueError: if a column is missing, or if `low < high` or `temperature > 0` does not hold.
    """

    columns: tuple[str, str] = ("score_chosen", "score_rejected")
    low: float = 0.0
    high: float = 1.0
    temperature: float = 1.0

    def __post_init__(self):
        if not (self.low < self.high and self.temperature > 0):
            raise ValueError(f"ScoreLabel needs low < high and temperature > 0, got {self}.")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        if len(row.candidates) != 2:
            raise ValueError(
                f"ScoreLabel compares two candidates, row {row.id} has {len(row.candidates)}; drop the map."
            )
        if any(row.extra.get(name, 0.0) is None for name in self.columns):
            return None
        scores = float(row.column(self.columns[0], self)), float(row.column(self.columns[1], self))
        scored = replace(row, scores=scores)
        if scores[0] < scores[1]:
            scored = scored.swapped()
        gap = abs(scores[0] - scores[1]) / (self.high - self.low)
        return replace(scored, prob=1 / (1 + math.exp(-gap / self.temperature)))


@dataclass(frozen=True)
class Smooth(RowMap):
    """Label smoothing: with probability `epsilon` the label is taken to be wrong (conservative DPO)."""

    epsilon: float = 0.1

    def __post_init__(self):
        if not 0 <= self.epsilon <= 0.5:
            raise ValueError(f"Smooth needs an epsilon in [0, 0.5], got {self.epsilon}.")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return replace(row, prob=(1 - self.epsilon) * row.prob + self.epsilon * (1 - row.prob))


@dataclass(frozen=True)
class Reverse(RowMap):
    """Prefer the loser, as Diffusion-NPO does (arXiv:2505.11245); sides are swapped, so row 0 stays the winner.

    Of unpaired data, what was desirable becomes undesirable.
    """

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return replace(row, prob=1 - row.prob) if len(row.candidates) == 1 else row.swapped()


@dataclass(frozen=True)
class Weight(RowMap):
    """Take the pair's weight from a column."""

    column: str = "weight"

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return replace(row, weight=float(row.column(self.column, self)))


@dataclass(frozen=True)
class PerPrompt(RowMap):
    """Divide the weight by the number of pairs of the prompt, so that prompts count alike, not pairs.

    As in the training of PickScore (arXiv:2305.01569, github.com/yuvalkirstain/PickScore).

    Args:
        column: where that number is, as in Pick-a-Pic; diffpo.rankings adds it to the pairs of a group.
    """

    column: str = "num_example_per_prompt"

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return replace(row, weight=row.weight / float(row.column(self.column, self)))


@dataclass(frozen=True)
class AtLeast(RowMap):
    """Drop rows whose value in a column is below `value`, or null.

    HPSv3 (arXiv:2508.03789) trains on the pairs of HPDv3 whose `confidence` is at least 0.95.
    """

    column: str
    value: float

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        if self.column in row.extra and row.extra[self.column] is None:
            return None
        return row if float(row.column(self.column, self)) >= self.value else None


@dataclass(frozen=True)
class ForTraining(RowMap):
    """Drop the prompts that `ForValidation` with the same share keeps."""

    share: float

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return row if None in row.prompts or not is_held_out(row, self.share) else None


@dataclass(frozen=True)
class ForValidation(RowMap):
    """Keep about `share` of the prompts, all their rows together; a hash of the prompt decides, in every run alike.

    Rows whose prompt is null stay on both sides, for `DropPromptless` or to be refused.
    """

    share: float

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return row if None in row.prompts or is_held_out(row, self.share) else None


def is_held_out(row: PairRow, share: float) -> bool:
    """Whatever the seed, and whichever side is chosen."""
    digest = hashlib.blake2b(min(map(str, row.prompts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64
