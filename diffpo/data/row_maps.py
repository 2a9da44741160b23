"""Row maps that change who wins, or how surely."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal, require_positive
from diffpo.data.rows import PairRow, Reverse, RowMap
from diffpo.data.typed import read_prompts
from diffpo.storage.digests import read_json


@dataclass(frozen=True)
class ScoreLabel(RowMap):
    """Let a scorer name the winner: prob = sigmoid of the gap of the normalized scores over `temperature`.

    SmPO (arXiv:2506.02698, github.com/JaydenLyh/SmPO) does so with PickScore: scores become 0 to 1 over the range that
    they have in the data, so prob is at most 0.73 there, and equal scores are a tie. Scorers have different ranges
    (PickScore about 20, HPSv2 about 0.3), so let `recorded` name what scripts/score_pairs.py wrote; a score outside of
    the range, of data that were not scored then, is not clamped. A row with a null score (or NaN) is dropped: that
    picture could not be read.

    Args:
        columns: score of the chosen and of the rejected side, as the source orders them.
        low: score that is normalized to 0; null is the least that is recorded, or 0 if nothing is.
        high: score that is normalized to 1; null is the greatest that is recorded, or 1 if nothing is.
        temperature: of the sigmoid.
        recorded: the `scores.json` with that range, or the folder that holds it: of scored or of encoded pairs.
        scorer: name that `recorded` has to say, e.g. pickscore; null takes whoever scored.
        keep_order: keep who the source says is chosen, and ask the scorer only how surely: prob = max(1/2, sigmoid of
            the gap chosen minus rejected). A pair that the scorer orders the other way, and a tie of the source, has
            prob 1/2, which `Confidence` turns into no gradient; unclamped, gamma (2 prob - 1) would turn
            the pair round. The released code orders by score and never meets this.

    Raises:
        Refusal: if a column is missing; if `low < high` or `temperature > 0` does not hold; or if there is nothing
            recorded, no range, a constant score, or another scorer than `scorer`.
    """

    columns: tuple[str, str] = ("score_chosen", "score_rejected")
    low: float | None = None
    high: float | None = None
    temperature: float = 1.0
    recorded: str | None = None
    scorer: str | None = None
    keep_order: bool = False

    def __post_init__(self):
        if self.recorded is None and self.scorer is not None:
            raise Refusal(f"ScoreLabel cannot tell whether {self.scorer} scored; set recorded to its {SUMMARY}.")
        if self.recorded is not None and (self.low, self.high) != (None, None):
            raise Refusal(
                f"ScoreLabel has a range in recorded ({self.recorded}) and low = {self.low}, high = {self.high}; "
                "set only one of them."
            )
        low, high = self.range
        if not (low < high and self.temperature > 0):
            raise Refusal(f"ScoreLabel needs low < high and temperature > 0, got {low}, {high}, {self.temperature}.")

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """What is recorded of the scores, read once; None if nothing is named."""
        if self.recorded is None:
            return None
        file = Path(self.recorded)
        file = file / SUMMARY if file.is_dir() else file
        if not file.exists():
            raise Refusal(f"ScoreLabel finds no {file}; write it with scripts/score_pairs.py, or set low and high.")
        return read_json(file)

    def scorers_of(self, folders: Sequence[Path]) -> list[dict[str, Any]]:
        recorded = [] if self.summary is None else [identity_in(self.summary)]
        return recorded + [scorer for folder in folders if (scorer := scored_by(folder)) is not None]

    @cached_property
    def range(self) -> tuple[float, float]:
        """Scores that are normalized to 0 and 1."""
        if self.summary is None:
            return (0.0 if self.low is None else self.low), (1.0 if self.high is None else self.high)
        require_usable(self.summary, self.scorer, str(self.recorded))
        return float(self.summary["min"]), float(self.summary["max"])

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        if len(row.candidates) != 2:
            raise Refusal(f"ScoreLabel compares two candidates, row {row.id} has {len(row.candidates)}; drop the map.")
        first, second = (row.number(name, self) for name in (self.columns[::-1] if row.turned else self.columns))
        if first is None or second is None:
            return None
        scored, gap = replace(row, scores=(first, second)), first - second
        if self.keep_order:
            decided = row.prob != 0.5 and not math.isnan(row.prob)
            return replace(scored, prob=self.prob(max(gap, 0.0))) if decided else scored
        return replace(scored if gap >= 0 else scored.swapped(), prob=self.prob(abs(gap)))

    def prob(self, gap: float) -> float:
        low, high = self.range
        return 1 / (1 + math.exp(-gap / (high - low) / self.temperature))


def require_usable(summary: dict[str, Any], scorer: str | None, recorded: str) -> None:
    """Raise a Refusal if what is recorded is no range, or is of another scorer."""
    if not {"min", "max", "scorer"} <= summary.keys():
        raise Refusal(
            f"{recorded} does not say min, max and scorer (it says {', '.join(sorted(summary)) or 'nothing'}); name a "
            f"{SUMMARY} that scripts/score_pairs.py wrote."
        )
    if scorer is not None and summary["scorer"] != scorer:
        raise Refusal(
            f"ScoreLabel wants scores of {scorer}, those of {recorded} are of {summary['scorer']}; score the pairs by "
            f"{scorer} (scripts/score_pairs.py), or change scorer."
        )
    if summary["min"] == summary["max"]:
        raise Refusal(
            f"{summary['scorer']} gave {summary['min']} to each picture ({recorded}), so it cannot tell them apart; "
            "choose another scorer."
        )


@dataclass(frozen=True)
class Smooth(RowMap):
    """Label smoothing: with probability `epsilon` the label is taken to be wrong (conservative DPO)."""

    epsilon: float = 0.1

    def __post_init__(self):
        if not 0 <= self.epsilon <= 0.5:
            raise Refusal(f"Smooth needs an epsilon in [0, 0.5], got {self.epsilon}.")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return replace(row, prob=(1 - self.epsilon) * row.prob + self.epsilon * (1 - row.prob))


@dataclass(frozen=True)
class Mislabel(RowMap):
    """Exchange the sides of about `share` of the pairs, to measure what a method makes of wrong labels.

    Which ones is fixed by the seed and the row. Ties stay as they are; of unpaired data, what was desirable becomes
    undesirable. Put it before a `ScoreLabel` that keeps the order, so that the scorer sees the wrong order.
    """

    share: float = 0.2

    def __post_init__(self):
        if not 0 <= self.share <= 0.5:
            raise Refusal(f"Mislabel needs a share in [0, 0.5], got {self.share}.")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        if row.prob == 0.5 or draws.uniform("mislabel") >= self.share:
            return row
        return Reverse()(row, draws)

    def require_place(self, before: Sequence[RowMap], after: Sequence[RowMap]) -> None:
        if any(isinstance(row_map, ScoreLabel) and row_map.keep_order for row_map in before):
            raise Refusal(
                "Mislabel comes after a ScoreLabel that keeps the order, which sees no wrong label; put it before."
            )


@dataclass(frozen=True)
class ExpWeight(RowMap):
    """Multiply the weight by exp((score - shift) / temperature): reward-weighted regression (arXiv:2404.14367).

    With an SFT objective, which learns from chosen sides alone. A large temperature is plain SFT.

    Args:
        column: of the chosen side's score.
        shift: score whose weight is 1, e.g. the largest one or the mean; only ratios of weights matter but for the
            learning rate.
        most: weights are cut to this; how many is told.

    Raises:
        Refusal: if a number is out of its range, or a score is missing or null.
    """

    column: str = "score_chosen"
    temperature: float = 1.0
    shift: float = 0.0
    most: float = 20.0

    def __post_init__(self):
        require_positive(self, temperature=self.temperature, most=self.most)

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        score = row.number(self.column, self)
        if score is None:
            raise row.lacks(self.column, self)
        exponent, highest = (score - self.shift) / self.temperature, math.log(self.most)
        notes = (*row.notes, CAPPED) if exponent > highest else row.notes
        return replace(row, weight=row.weight * math.exp(min(exponent, highest)), notes=notes)


CAPPED = "whose exponential weight was cut"
FALLBACK = "without two captions kept their prompt"


@dataclass(frozen=True)
class DualCaptions(RowMap):
    """Each side's prompt becomes its picture's caption (DCPO, arXiv:2502.06023, github.com/sahsaeedi/DCPO-T2I).

    A pair that lacks one of the two captions (null or blank) keeps its prompt on both sides and is counted: a caption
    against a prompt would tell the sides apart by their text alone. Put it before maps that exchange sides or after
    them, captions stay with their pictures.

    Args:
        columns: caption of the chosen and of the rejected side, as the source orders them; scripts/caption_pairs.py
            writes these two.

    Raises:
        Refusal: if a column is missing, or a caption is no text.
    """

    script: ClassVar[str] = "scripts/caption_pairs.py"
    columns: tuple[str, str] = ("caption_chosen", "caption_rejected")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        for name in self.columns:
            row.require(name, self)
        read = read_prompts(row.id, row.extra, *self.columns)
        captions = [text.strip() if isinstance(text, str) else text for text in read["prompts"]]
        if not all(captions):
            return replace(row, notes=(*row.notes, FALLBACK))
        prompts = tuple(captions[::-1] if row.turned else captions)
        return replace(row, prompts=prompts, notes=(*row.notes, *read.get("notes", ())))


SUMMARY = "scores.json"  # beside data that scripts/score_pairs.py wrote


def scored_by(folder: Path) -> dict[str, Any] | None:
    """Identity of the scorer that wrote the score columns of the data in a folder; None if nothing there says."""
    if not (folder / SUMMARY).exists():
        return None
    return identity_in(read_json(folder / SUMMARY))


def identity_in(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Identity of the scorer that a `scores.json` tells of."""
    return {key: summary.get(key) for key in ("scorer", "model_id", "version", "raw")}
