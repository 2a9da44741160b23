"""Losses that ask for a margin of a certain size, and for no more."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu

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
