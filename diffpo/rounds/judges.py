"""Judges made of scorers and of other judges."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core.refusal import Refusal
from diffpo.evaluation.scorer import Scorer
from diffpo.rounds.contents import draw_for
from diffpo.rounds.roles import Judge, ScoringJudge, require_matrix


@dataclass(frozen=True)
class FromScorer(ScoringJudge):
    """P(first wins) = sigmoid((s_first - s_second) / temperature), s what a scorer says: Bradley and Terry's model.

    Args:
        temperature: in units of the scores; 0 is certain, and equal scores tie.

    Raises:
        Refusal: if `temperature` is negative; when it judges, if a score is no finite number.
    """

    scorer: Scorer
    temperature: float = 1.0

    def __post_init__(self):
        if not self.temperature >= 0:
            raise Refusal(f"FromScorer needs a temperature of 0 or more, got {self.temperature}; 0 is certain.")

    @property
    def identity(self) -> dict[str, Any]:
        return {"judge": type(self).__name__, "temperature": self.temperature, **self.scorer.identity}

    def scores(self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]]) -> Float[Tensor, "k b"]:
        asked = [one for side in candidates for one in side]
        scores = self.scorer(list(prompts) * len(candidates), asked).double()
        if not scores.isfinite().all():
            raise Refusal(
                f"{self.scorer.name} gives no finite number to {int((~scores.isfinite()).sum())} of {len(asked)} "
                "candidates; name another scorer, or see what is wrong with them."
            )
        return scores.reshape(len(candidates), len(prompts))

    def prob_of(self, first: Float[Tensor, " n"], second: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        gap = first - second
        return torch.sigmoid(gap / self.temperature) if self.temperature else gap.sign() / 2 + 0.5


@dataclass(frozen=True)
class JudgeAdapter(Judge):
    """A judge that changes what another one says."""

    judge: Judge

    @property
    def identity(self) -> dict[str, Any]:
        """Its own fields, and what it asks."""
        own = {name: value for name, value in vars(self).items() if name != "judge"}
        return {"judge": type(self).__name__, **own, "asks": self.judge.identity}

    @property
    def noted(self) -> Counter[str]:
        return self.judge.noted


@dataclass(frozen=True)
class BothOrders(JudgeAdapter):
    """Each question asked in both orders, and the mean: a judge that goes by the place says 1/2."""

    def __call__(self, prompts: Sequence[Any], first: Sequence[Any], second: Sequence[Any]) -> Float[Tensor, " n"]:
        said = self.judge([*prompts, *prompts], [*first, *second], [*second, *first])
        straight, turned = said.reshape(2, len(prompts))
        return (straight + 1 - turned) / 2


@dataclass(frozen=True)
class Flipped(JudgeAdapter):
    """Label noise: a share of the verdicts is turned round; which ones is drawn for each question, by what it asks.

    Args:
        rate: share of the questions.
        seed: of the draws.

    Raises:
        Refusal: if `rate` is not in [0, 0.5].
    """

    rate: float = 0.1
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.rate <= 0.5:
            raise Refusal(f"Flipped needs a rate in [0, 0.5], got {self.rate}; at 0.5 nothing is left to learn.")

    def __call__(self, prompts: Sequence[Any], first: Sequence[Any], second: Sequence[Any]) -> Float[Tensor, " n"]:
        said = self.judge(prompts, first, second)
        turned = draw_for(self.seed, "flip", prompts, first, second) < self.rate
        return torch.where(turned, 1 - said, said)


@dataclass(frozen=True)
class Drawn(JudgeAdapter):
    """A verdict drawn from the probability that a judge says: what one person says once. Ties stay.

    Asked again, or in the other order, it says the same.

    Args:
        seed: of the draws.
    """

    seed: int = 0

    def __call__(self, prompts: Sequence[Any], first: Sequence[Any], second: Sequence[Any]) -> Float[Tensor, " n"]:
        said = self.judge(prompts, first, second)
        uniform = draw_for(self.seed, "verdict", prompts, first, second)
        favorite = (uniform < torch.maximum(said, 1 - said)).to(said.dtype)  # wins, whichever side it is
        return torch.where(said == 0.5, said, torch.where(said > 0.5, favorite, 1 - favorite))


@dataclass(frozen=True)
class Averaged(Judge):
    """The mean of several judges. Win rates need no common scale, so scorers of any ranges may be averaged so (SPO).

    Args:
        judges: one or more.
        weights: of each, which add up to 1; null weighs all alike.

    Raises:
        Refusal: if there is no judge, or weights are not one for each, positive and add up to 1.
    """

    judges: list[Judge]
    weights: list[float] | None = None

    def __post_init__(self):
        weights = self.weights
        fits = weights is None or (
            len(weights) == len(self.judges) and min(weights, default=0) > 0 and abs(sum(weights) - 1) < 1e-6
        )
        if not self.judges or not fits:
            raise Refusal(
                f"Averaged needs judges and positive weights for each that add up to 1, got {len(self.judges)} and "
                f"{weights}; null weighs all alike."
            )

    @property
    def identity(self) -> dict[str, Any]:
        asked = [judge.identity for judge in self.judges]
        return {"judge": type(self).__name__, "weights": self.weights, "asks": asked}

    def __call__(self, prompts: Sequence[Any], first: Sequence[Any], second: Sequence[Any]) -> Float[Tensor, " n"]:
        return self.mean([judge(prompts, first, second) for judge in self.judges])

    def wins(self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]]) -> Float[Tensor, "k k b"]:
        return self.mean([require_matrix(judge.wins(prompts, candidates), judge) for judge in self.judges])

    def mean(self, said: Sequence[Float[Tensor, "..."]]) -> Float[Tensor, "..."]:
        weights = self.weights or [1 / len(said)] * len(said)
        return sum((weight * one for weight, one in zip(weights, said, strict=True)), torch.zeros_like(said[0]))

    @property
    def noted(self) -> Counter[str]:
        return sum((judge.noted for judge in self.judges), Counter[str]())
