"""Losses that push the margin through a logistic function: DPO and its robust forms.

All of them read P(chosen wins) from the label: a soft label mixes the loss of the pair and of the swapped pair.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffpo.core import PairLabels, PairLogps, PairLoss


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
        ValueError: if `flip_rate` is not in [0, 0.5).
    """

    beta: float = 0.1
    flip_rate: float = 0.1

    def __post_init__(self):
        if not 0 <= self.flip_rate < 0.5:
            raise ValueError(f"Robust needs a flip_rate in [0, 0.5), got {self.flip_rate}; 0.1 is the usual choice.")

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        z = self.beta * pair.margin
        # E[p' | p] = p inverts the flip: (p - flip_rate) / (1 - 2 flip_rate), not a probability, may leave [0, 1].
        prob = (label.prob - self.flip_rate) / (1 - 2 * self.flip_rate)
        return -prob * logsigmoid(z) - (1 - prob) * logsigmoid(-z)
