"""Losses that need no reference."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffpo.core import PairLabels, PairLogps, PairLoss


@dataclass(frozen=True)
class SimPO(PairLoss):
    """Length-normalised and reference-free (arXiv:2405.14734, eq. 6)."""

    needs_reference: ClassVar[bool] = False
    beta: float = 2.0
    gamma: float = 1.0

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        chosen, rejected = pair.policy / pair.length
        z = self.beta * (chosen - rejected)
        return -label.prob * logsigmoid(z - self.gamma) - (1 - label.prob) * logsigmoid(-z - self.gamma)
