"""Losses that look at the chosen side alone."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from diffpo.core import PairLabels, PairLogps, PairLoss


@dataclass(frozen=True)
class ChosenNLL(PairLoss):
    """Mean negative log-likelihood of the chosen side: the SFT term of CPO, RPO, ORPO and others."""

    needs_reference: ClassVar[bool] = False

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        return -pair.policy[0] / pair.length[0]
