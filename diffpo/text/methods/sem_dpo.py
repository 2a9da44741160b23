"""Sem-DPO: a pair counts less, the further its winner has drifted from what was asked for (arXiv:2507.20133)."""

from dataclasses import dataclass, replace
from math import exp
from typing import ClassVar

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.rows import PairRow, RowMap


@dataclass(frozen=True)
class SemanticWeight(RowMap):
    """Multiply the weight of a pair by exp(-alpha d), d = 1 - cos(e(prompt), e(winner)), which lies in [0, 2].

    With `SequencePreference` the loss is mean(w loss), not divided by the sum of weights: pairs that have all drifted
    are all learned less. The loser's drift does not count. d is in columns that scripts/measure_texts.py
    semantic-distance adds, so alpha changes without encoding anew. Mind that weights below 1 act like a lower learning
    rate.

    Args:
        alpha: how fast the weight falls; 0 is DPO. The paper's was not at hand; 3 makes of usual distances of 0.1 to
            0.5 weights of 0.74 to 0.22.
        columns: distance of the chosen and of the rejected side, as the source orders them.

    Raises:
        Refusal: if alpha is negative, or a distance is not in [0, 2].
    """

    script: ClassVar[str] = "scripts/measure_texts.py semantic-distance"

    alpha: float = 3.0
    columns: tuple[str, str] = ("sem_distance", "sem_distance_rejected")

    def __post_init__(self):
        if self.alpha < 0:
            raise Refusal(f"SemanticWeight needs an alpha of at least 0, got {self.alpha}; 0 weighs all pairs alike.")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        name = self.columns[row.turned]
        distance = float(row.column(name, self))
        if not 0 <= distance <= 2:
            raise Refusal(
                f"Row {row.id} has {name} {distance}, but a cosine distance lies in [0, 2]; add it with {self.script}."
            )
        return replace(row, weight=row.weight * exp(-self.alpha * distance))
