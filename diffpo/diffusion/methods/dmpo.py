"""DMPO: divergence minimization preference optimization."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffpo.core.pair import PairLabels, PairLogps, PairLoss
from diffpo.core.refusal import Refusal


@dataclass(frozen=True)
class DMPO(PairLoss):
    """KL(p || q) between Bernoulli p = sigmoid(beta margin) and q = 1 - alpha (arXiv:2507.07510, reverse KL).

    The model's probability comes first, as in the code published with Diffusion-SDPO (arXiv:2511.03317,
    github.com/AIDC-AI/Diffusion-SDPO); the other order is `Sigmoid` with a smoothed label, up to a constant. Bounded:
    pairs lost by far are given up.

    Args:
        beta: 2000 for SD1.5 and 6000 for SDXL in that code.
        alpha: probability that a label is wrong; the margin is drawn to logit(1 - alpha) / beta.

    Raises:
        Refusal: if `alpha` is not in (0, 1).
    """

    beta: float = 2000.0
    alpha: float = 0.01

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.alpha < 1:
            raise Refusal(f"DMPO needs an alpha in (0, 1), got {self.alpha}; 0.01 is the published one.")

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        z = self.beta * pair.margin
        return label.prob * self.divergence(z) + (1 - label.prob) * self.divergence(-z)

    def divergence(self, z: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        won = torch.sigmoid(z) * (logsigmoid(z) - math.log1p(-self.alpha))
        lost = torch.sigmoid(-z) * (logsigmoid(-z) - math.log(self.alpha))
        return won + lost
