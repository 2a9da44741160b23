"""Pairs as data: one row per pair, and maps that relabel, reorder or drop rows."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.typed import FIRST, SEVERAL, Captions, Field, is_null


@dataclass(frozen=True)
class PairRow:
    """One pair (or list of k candidates) before anything is decoded; index 0 is the chosen side.

    A row of one candidate is unpaired data: `prob` says how desirable it is.

    Attributes:
        id: position in the source; with the seed and the epoch it is the key of every random draw about the pair.
        prompts: one per candidate, a text, several captions, or (in the text track) a list of chat messages; None if
            there is none. They differ only if the data have one caption per image.
        candidates: what `diffpo.text.data.completions` calls so, or images that are read when they are needed.
        prob: P(chosen wins) in [0.5, 1], 0.5 being a tie; of one candidate, 1 if it is desirable and 0 if not. NaN if
            the source does not say.
        scores: what a scorer says of each candidate; zeros without one.
        weight: importance of the pair in the batch mean.
        extra: the source's other columns.
        turned: whether the sides stand the other way round than in the source, which is what `extra` speaks of.
        notes: what became of it that a run reports, e.g. "without two captions kept their prompt".
        shots: whose verdict it is, if the network hears users (`diffpo.diffusion.ForUser`).
    """

    id: int
    prompts: tuple[Any, ...]
    candidates: tuple[Any, ...]
    prob: float = 1.0
    scores: tuple[float, ...] = (0.0, 0.0)
    weight: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)
    turned: bool = False
    notes: tuple[str, ...] = ()
    shots: Any = None

    def swapped(self) -> "PairRow":
        """The same row with its sides exchanged; `prob` still belongs to the side that now stands first."""
        prompts, candidates, scores = self.prompts[::-1], self.candidates[::-1], self.scores[::-1]
        return replace(self, prompts=prompts, candidates=candidates, scores=scores, turned=not self.turned)

    def column(self, name: str, asker: "RowMap") -> Any:
        if is_null(self.extra.get(name)):
            raise self.lacks(name, asker)
        return self.extra[name]

    def number(self, name: str, asker: "RowMap") -> float | None:
        """The finite number in a column; None if it is null or NaN. Raises a Refusal if there is something else."""
        self.require(name, asker)
        return Field(self.id, name, self.extra[name]).number()

    def require(self, name: str, asker: "RowMap") -> None:
        """Raise a Refusal if the source has no such column; null in it is allowed."""
        if name not in self.extra:
            raise self.lacks(name, asker)

    def lacks(self, name: str, asker: "RowMap") -> Refusal:
        have = ", ".join(sorted(self.extra)) or "none"
        return Refusal(
            f"{type(asker).__name__} needs column {name!r}, row {self.id} has no value there (other columns: {have}); "
            f"name another column, or add it with {asker.script}."
        )


class RowMap(ABC):
    """Looks at one row at a time; None drops it, in a table once and for all, in a stream each time it comes.

    Attributes:
        script: what writes the columns that it needs.
        needs_one_source: whether what it looks up belongs to one source.
        tells_users: whether it tells the network who judged a pair.
    """

    script: ClassVar[str] = "scripts/score_pairs.py"
    needs_one_source: ClassVar[bool] = False
    tells_users: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None: ...

    def require_place(self, before: "Sequence[RowMap]", after: "Sequence[RowMap]") -> None:
        """Raise a Refusal if a map comes before or after this one that may not; most maps do not mind."""

    def scorers_of(self, folders: "Sequence[Path]") -> list[dict[str, Any]]:
        """Who gave the scores that it compares, as far as that is recorded; most maps compare none.

        Args:
            folders: of the data.
        """
        return []


class LastMap(RowMap):
    """A map whose candidates or scores the others would not understand."""

    def require_place(self, before: Sequence[RowMap], after: Sequence[RowMap]) -> None:
        if after:
            raise Refusal(
                f"{type(self).__name__} has to be the last of data.rows, {type(after[0]).__name__} comes after it; "
                "name data.rows in another order."
            )


def require_order(maps: Sequence[RowMap]) -> None:
    """Raise a Refusal if maps stand in an order in which one of them does something else than it says."""
    for place, row_map in enumerate(maps):
        row_map.require_place(maps[:place], maps[place + 1 :])


def apply_maps(row: PairRow, maps: list[RowMap], draws: Draws) -> PairRow | RowMap:
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
    """Drop rows whose prompt is null or NaN. An empty string is a prompt."""

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return None if None in row.prompts else row


@dataclass(frozen=True)
class DropUnlabeled(RowMap):
    """Drop rows whose label is null. A tie is a label."""

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return None if math.isnan(row.prob) else row


@dataclass(frozen=True)
class FirstCaption(RowMap):
    """Of several captions take the first, at every visit."""

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        prompts = tuple(str(prompt) if isinstance(prompt, Captions) else prompt for prompt in row.prompts)
        notes = tuple(FIRST if note == SEVERAL else note for note in row.notes)
        return replace(row, prompts=prompts, notes=notes)


@dataclass(frozen=True)
class Reverse(RowMap):
    """Prefer the loser, as Diffusion-NPO does (arXiv:2505.11245); sides are swapped, so row 0 stays the winner.

    Of unpaired data, what was desirable becomes undesirable.
    """

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return replace(row, prob=1 - row.prob) if len(row.candidates) == 1 else row.swapped()


@dataclass(frozen=True)
class Weight(RowMap):
    """Take the pair's weight from a column.

    Raises:
        Refusal: if it is missing, null, negative or no number.
    """

    column: str = "weight"

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        weight = row.number(self.column, self)
        if weight is None:
            raise row.lacks(self.column, self)
        if weight < 0:
            raise Field(row.id, self.column, weight).refusal("a weight is 0 or more.")
        return replace(row, weight=weight)


@dataclass(frozen=True)
class PerPrompt(RowMap):
    """Divide the weight by the number of pairs of the prompt, so that prompts count alike, not pairs.

    As in the training of PickScore (arXiv:2305.01569, github.com/yuvalkirstain/PickScore).

    Args:
        column: where that number is, as in Pick-a-Pic; diffpo.data.rankings adds it to the pairs of a group.

    Raises:
        Refusal: if it is missing, null or not positive.
    """

    column: str = "num_example_per_prompt"

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        pairs = row.number(self.column, self)
        if pairs is None:
            raise row.lacks(self.column, self)
        if pairs <= 0:
            raise Field(row.id, self.column, pairs).refusal("a number of pairs is positive.")
        return replace(row, weight=row.weight / pairs)


@dataclass(frozen=True)
class AtLeast(RowMap):
    """Drop rows whose number in a column is below `value`, or null.

    HPSv3 (arXiv:2508.03789) trains on the pairs of HPDv3 whose `confidence` is at least 0.95.
    """

    column: str
    value: float

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        number = row.number(self.column, self)
        return row if number is not None and number >= self.value else None


@dataclass(frozen=True)
class Only(RowMap):
    """Keep rows with one value in a column, compared as texts: the pairs of one user, say."""

    column: str
    value: str

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        row.require(self.column, self)
        return row if str(row.extra[self.column]) == self.value else None


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
