"""Losses that ask for a margin of a certain size, and for no more."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu

from diffpo.core.needs import Need, any_scored
from diffpo.core.pair import PairLabels, PairLogps, PairLoss


@dataclass(frozen=True)
class Hinge(PairLoss):
    """SLiC on log-ratios (arXiv:2305.10425, arXiv:2309.06657): max(0, 1 - beta margin)."""

    beta: float = 0.1

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        z = self.beta * pair.margin
        return label.prob * relu(1 - z) + (1 - label.prob) * relu(1 + z)


@dataclass(frozen=True)
class IPO(PairLoss):
    """Squared distance to a finite margin (arXiv:2310.12036, eq. 17): (margin - 1 / (2 beta))^2 for a hard label.

    On sums of tokens, as in the paper's equation. TRL divides each side by its length first: LengthNormalised(IPO()).
    """

    beta: float = 0.1

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        return (pair.margin - (label.prob - 0.5) / self.beta) ** 2


@dataclass(frozen=True)
class ScoreMargin(PairLoss):
    """Squared distance to the margin that two scores ask for: (margin - (s_w - s_l) / beta)^2.

    One loss of four papers, by what a score is. P(it beats a third answer of the policy): online IPO and EGPO
    (arXiv:2503.08942). A mean win over the policy's answers: the pairwise form of GPO (arXiv:2410.02197). A reward,
    with beta for 1 / eta: REBEL (arXiv:2404.16767). prob / 2 and (1 - prob) / 2: IPO. Sides may stand in either order.

    Args:
        beta: strength of the reference; in units of the scores per nat.
    """

    beta: float = 0.1

    @property
    def needs(self) -> tuple[Need, ...]:
        remedy = "pair candidates that a judge has scored (diffpo.rounds), or score the pairs (scripts/score_pairs.py)"
        return (Need(type(self).__name__, "scores of both sides, and no row has one", any_scored, remedy),)

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        chosen, rejected = label.score
        return (pair.margin - (chosen - rejected) / self.beta) ** 2
