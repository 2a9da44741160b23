"""Losses that push the margin through a logistic function: DPO and its robust, offset and reweighted forms.

All of them read P(chosen wins) from the label: a soft label mixes the loss of the pair and of the swapped pair.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffpo.core.needs import Need
from diffpo.core.pair import PairLabels, PairLogps, PairLoss
from diffpo.core.refusal import Refusal


@dataclass(frozen=True)
class Sigmoid(PairLoss):
    """DPO (arXiv:2305.18290, eq. 7): -log sigmoid(beta margin). A label of 1 - eps gives conservative DPO."""

    beta: float = 0.1

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        z = self.beta * pair.margin
        return -label.prob * logsigmoid(z) - (1 - label.prob) * logsigmoid(-z)


@dataclass(frozen=True)
class Robust(PairLoss):
    """rDPO (arXiv:2403.00409): unbiased for the clean loss when a share `flip_rate` of the labels is swapped.

    Raises:
        Refusal: if `flip_rate` is not in [0, 0.5).
    """

    beta: float = 0.1
    flip_rate: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.flip_rate < 0.5:
            raise Refusal(f"Robust needs a flip_rate in [0, 0.5), got {self.flip_rate}; 0.1 is the usual choice.")

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        z = self.beta * pair.margin
        # E[p' | p] = p inverts the flip: (p - flip_rate) / (1 - 2 flip_rate), not a probability, may leave [0, 1].
        prob = (label.prob - self.flip_rate) / (1 - 2 * self.flip_rate)
        return -prob * logsigmoid(z) - (1 - prob) * logsigmoid(-z)


@dataclass(frozen=True)
class EXO(PairLoss):
    """EXO on pairs (arXiv:2402.00856, eq. 16): KL(q || p) with q = sigmoid(beta margin), p the label's probability.

    p = (1 - smoothing) prob + smoothing (1 - prob). A soft label is thus a target of its own, no mixture of losses.

    Args:
        smoothing: keeps p away from 0 and 1, where the divergence is infinite; 1e-3 as in the paper.

    Raises:
        Refusal: if `smoothing` is not in (0, 0.5).
    """

    beta: float = 0.1
    smoothing: float = 1e-3

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.smoothing < 0.5:
            raise Refusal(f"EXO needs a smoothing in (0, 0.5), got {self.smoothing}; the paper takes 0.001.")

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        z = self.beta * pair.margin
        prob = (1 - self.smoothing) * label.prob + self.smoothing * (1 - label.prob)
        chosen = z.sigmoid() * (logsigmoid(z) - prob.log())
        return chosen + (-z).sigmoid() * (logsigmoid(-z) - torch.log1p(-prob))


@dataclass(frozen=True)
class DiscoPOP(PairLoss):
    """-(1 - s) log sigmoid(z) + s exp(-z) with z = beta margin, s = sigmoid(z / tau) (arXiv:2406.08414, eq. 5).

    The gradient runs through s too, so with the paper's tau the loss rises from z = -0.2 to 0.1: where policy and
    reference agree, its slope is (1 - log 2) / (4 tau) - 3/4 = 0.78, and training begins by lowering the margin a bit.

    Raises:
        Refusal: if `tau` is not in (0, 1]; beyond 1, pairs that are far wrong would count exponentially.
    """

    beta: float = 0.1
    tau: float = 0.05

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.tau <= 1:
            raise Refusal(f"DiscoPOP needs a tau in (0, 1], got {self.tau}; the paper takes 0.05.")

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        z = self.beta * pair.margin
        return label.prob * self.hard(z) + (1 - label.prob) * self.hard(-z)

    def hard(self, z: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        # s exp(-z) as one exponential: for z far below 0 it is 0 times infinity otherwise.
        exponential = torch.exp(logsigmoid(z / self.tau) - z)
        return exponential - (-z / self.tau).sigmoid() * logsigmoid(z)


@dataclass(frozen=True)
class FlexDPO(PairLoss):
    """-log sigmoid(beta h_w - beta_rejected h_l), h the log-ratios (arXiv:2406.07327): a slower push downwards.

    A smaller `beta_rejected` keeps the likelihood of rejected answers from collapsing; equal betas are DPO. With two
    betas the loss is no function of the margin any more, and logged rewards still use `beta` on both sides.

    Raises:
        Refusal: if `beta_rejected` is negative.
    """

    beta: float = 0.1
    beta_rejected: float = 0.08

    def __post_init__(self):
        super().__post_init__()
        if not self.beta_rejected >= 0:
            raise Refusal(f"FlexDPO needs a beta_rejected of 0 or more, got {self.beta_rejected}; try 0.08.")

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        chosen, rejected = pair.log_ratio
        z, swapped = (self.beta * a - self.beta_rejected * b for a, b in [(chosen, rejected), (rejected, chosen)])
        return -label.prob * logsigmoid(z) - (1 - label.prob) * logsigmoid(swapped)


class Gap(ABC):
    """How much better the chosen side is, from two scores."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it needs of the scores besides their order."""
        return ()

    @abstractmethod
    def __call__(self, chosen: Float[Tensor, " b"], rejected: Float[Tensor, " b"]) -> Float[Tensor, " b"]: ...


@dataclass(frozen=True)
class LogDifference(Gap):
    """log(s_w - s_l), the paper's choice: negative, so that ODPO asks for less than DPO, below a difference of 1."""

    def __call__(self, chosen: Float[Tensor, " b"], rejected: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return (chosen - rejected).log()


@dataclass(frozen=True)
class LogRatio(Gap):
    """log(s_w / s_l), for positive scores; from the authors' code.

    Raises:
        Refusal: if a score is not positive.
    """

    @property
    def needs(self) -> tuple[Need, ...]:
        positive = Need(
            "LogRatio",
            "positive scores",
            lambda rows: all(score > 0 for row in rows for score in row.scores),
            "use diffpo.losses.LogDifference",
        )
        return (positive,)

    def __call__(self, chosen: Float[Tensor, " b"], rejected: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        if (rejected <= 0).any():
            raise Refusal(f"LogRatio needs positive scores, got {rejected.min().item():.4g}; use LogDifference.")
        return (chosen / rejected).log()


@dataclass(frozen=True)
class Difference(Gap):
    """s_w - s_l as it is, for scores within [0, 1], whose logarithm would be negative; ours."""

    def __call__(self, chosen: Float[Tensor, " b"], rejected: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return chosen - rejected


@dataclass(frozen=True)
class ODPO(PairLoss):
    """DPO with an offset (arXiv:2402.10571): -log sigmoid(beta margin - alpha gap(scores)).

    Defaults are those of the authors' summarization runs (github.com/rycolab/odpo). Under a soft label each side is
    asked for the same offset, as with SimPO's gamma.

    Args:
        alpha: weight of the gap; 0 is DPO. beta does not scale it.
        gap: what the two scores of a pair are turned into.

    Raises:
        Refusal: if a rejected side has the same score as its chosen side, or a higher one.
    """

    beta: float = 0.5
    alpha: float = 1.0
    gap: Gap = field(default_factory=LogDifference)

    @property
    def needs(self) -> tuple[Need, ...]:
        ordered = Need(
            "ODPO",
            "a higher score on the chosen side",
            lambda rows: all(row.scores[0] > row.scores[1] for row in rows),
            "score the pairs, and order or drop them by score",
        )
        return (ordered, *self.gap.needs)

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        chosen, rejected = label.score
        if (wrong := chosen <= rejected).any():
            raise Refusal(
                f"ODPO needs a higher chosen score, {wrong.sum().item()} of {len(wrong)} pairs have equal or "
                "reversed ones; score the pairs, and order or drop them by score."
            )
        z, offset = self.beta * pair.margin, self.alpha * self.gap(chosen, rejected)
        return -label.prob * logsigmoid(z - offset) - (1 - label.prob) * logsigmoid(-z - offset)
