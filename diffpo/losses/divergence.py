"""f-DPO (arXiv:2309.16240): the reward is f'(p / p_ref) of an f-divergence; the reverse KL's is the log-ratio."""

import math
from abc import abstractmethod
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from diffpo.core.needs import Need
from diffpo.core.pair import PairLabels, PairLogps, PairLoss
from diffpo.core.refusal import Refusal
from diffpo.losses.combined import Wrapper, needs_margins
from diffpo.losses.logistic import Sigmoid

LARGEST_EXPONENT = 80.0  # exp of more is no fp32 number


@dataclass(frozen=True)
class Divergence(Wrapper):
    """Any loss of the margin on the rewards of another divergence, scaled to 0 where policy and reference agree.

    Only margins are meaningful: the normalizer of each prompt does not cancel from a single reward, so losses of
    `diffpo.losses.two_sided` have no such form. Logged rewards stay beta log-ratio.
    """

    inner: PairLoss = field(default_factory=Sigmoid)

    @property
    def needs(self) -> tuple[Need, ...]:
        return (needs_margins(self), *self.inner.needs)

    @abstractmethod
    def score(self, log_ratio: Float[Tensor, "k b"]) -> Float[Tensor, "k b"]:
        """f'(exp(log_ratio))."""

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        scored = replace(pair, policy=self.score(pair.log_ratio), reference=torch.zeros_like(pair.reference))
        return self.inner(scored, label)


@dataclass(frozen=True)
class AlphaDivergence(Divergence):
    """(1 - u^-alpha) / alpha with u = p / p_ref: alpha 1 is the forward KL, alpha to 0 the reverse KL (DPO).

    TRL's coefficient is 1 - alpha. Log-ratios below -80 / alpha are taken as that.

    Raises:
        Refusal: if `alpha` is not in (0, 1].
    """

    alpha: float = 0.5

    def __post_init__(self):
        if not 0 < self.alpha <= 1:
            raise Refusal(
                f"AlphaDivergence needs an alpha in (0, 1], got {self.alpha}; alpha 0 is its inner loss alone."
            )

    def score(self, log_ratio: Float[Tensor, "k b"]) -> Float[Tensor, "k b"]:
        return -torch.expm1((-self.alpha * log_ratio).clamp(max=LARGEST_EXPONENT)) / self.alpha


@dataclass(frozen=True)
class JensenShannon(Divergence):
    """log(2 u / (1 + u)) with u = p / p_ref: at most log 2, so a chosen answer cannot be raised for ever."""

    def score(self, log_ratio: Float[Tensor, "k b"]) -> Float[Tensor, "k b"]:
        return math.log(2) - softplus(-log_ratio)
