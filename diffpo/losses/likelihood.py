"""Losses that raise the likelihood of the chosen side: SFT, what it regularizes, and SFT that keeps a reference.

A soft label does not reach their SFT terms: they imitate the chosen side whatever its probability.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core.pair import PairLabels, PairLogps, PairLoss
from diffpo.losses.logistic import Sigmoid

HELLINGER_KNEE = -0.5


@dataclass(frozen=True)
class ChosenNLL(PairLoss):
    """Mean negative log-likelihood of the chosen side: the SFT term of CPO, RPO, ORPO and others."""

    needs_reference: ClassVar[bool] = False

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        return -pair.policy[0] / pair.length[0]


@dataclass(frozen=True)
class ChosenTotalNLL(PairLoss):
    """Negative log-likelihood of the chosen side, summed over its tokens: SFT-DPO of arXiv:2406.07327, RPO, SLiC."""

    needs_reference: ClassVar[bool] = False

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        return -pair.policy[0]


@dataclass(frozen=True)
class RejectedLL(PairLoss):
    """Log-likelihood of the rejected side, summed over its tokens, to be pushed down (arXiv:2404.14367).

    Sum([ChosenTotalNLL(), RejectedLL()], [1, beta]) is best-of-N with the worst pushed down. It has no lower end: keep
    its coefficient small, or take `RejectedRatio`.
    """

    needs_reference: ClassVar[bool] = False

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        return pair.policy[1]


@dataclass(frozen=True)
class RejectedRatio(PairLoss):
    """max(h_l, floor), h_l the rejected side's log-ratio: the same, held by the reference (arXiv:2404.14367).

    Args:
        floor: where the push ends; the gradient below is 0.
    """

    floor: float = -10.0

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        return pair.log_ratio[1].clamp(min=self.floor)


@dataclass(frozen=True)
class RPO(PairLoss):
    """-log sigmoid(beta margin) - eta beta log p(chosen): SFT as an adversarial regularizer (arXiv:2405.16436).

    Sum over tokens and defaults are those of the authors' Zephyr recipe
    (github.com/YSLIU627/Regularized-Preference-Optimization). Their other form, which they recommend in general, is
    the mean over tokens without beta: Sum([Sigmoid(0.5), ChosenNLL()], [1, 0.2]).
    """

    beta: float = 0.01
    eta: float = 0.005

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        return Sigmoid(self.beta)(pair, label) + self.eta * self.beta * ChosenTotalNLL()(pair, label)


class Phi(ABC):
    """phi(u) = -f*(-u) of an f-divergence, scaled to phi(0) = 0 and phi'(0) = 1; concave, so phi(u) <= u."""

    @abstractmethod
    def __call__(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]: ...


@dataclass(frozen=True)
class TotalVariation(Phi):
    """u: its gradient is that of plain SFT, whatever the reference."""

    def __call__(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return u


@dataclass(frozen=True)
class Pearson(Phi):
    """u - u^2 / 4, of the chi-squared divergence; beyond u = 2 it pulls the likelihood down."""

    def __call__(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return u - u.square() / 4


@dataclass(frozen=True)
class Hellinger(Phi):
    """u / (1 + u), of the squared Hellinger distance. Below u = -1/2 its tangent: the pole at -1 is no maximum."""

    def __call__(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        inside = u.clamp(min=HELLINGER_KNEE)
        return inside / (1 + inside) + (u - inside) / (1 + HELLINGER_KNEE) ** 2


@dataclass(frozen=True)
class KullbackLeibler(Phi):
    """1 - exp(-u): steep below 0."""

    def __call__(self, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return -torch.expm1(-u)


@dataclass(frozen=True)
class ImplicitReward(PairLoss):
    """SFT as implicit-reward learning: -phi(beta h) / beta with h the chosen side's log-ratio.

    From "Implicit Reward as the Bridge: A Unified View of SFT and DPO Connections" (2025). The four phi are derived
    from its distribution-matching view; the paper's own notation was not at hand. At the start the gradient is that of
    SFT, and it fades as the policy leaves the reference, which has to be the model before SFT. Sums of tokens soon
    leave the useful range of phi: keep beta small, or take LengthNormalised(ImplicitReward(beta=1)).

    Args:
        phi: the divergence; TotalVariation is plain SFT.
    """

    beta: float = 0.1
    phi: Phi = field(default_factory=Pearson)

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        return -self.phi(self.beta * pair.log_ratio[0]) / self.beta
