"""Losses that see the rewards of both sides, not only their difference: they pull on absolute likelihoods.

A constant added to both log-ratios changes them all.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffpo.core.needs import Need, all_within_one, any_scored
from diffpo.core.pair import PairLabels, PairLogps, PairLoss


@dataclass(frozen=True)
class TwoSided(PairLoss):
    """A loss of two rewards, beta log-ratio each; a soft label mixes the loss of the pair and of the swapped pair."""

    beta: float = 0.1

    @abstractmethod
    def hard(self, chosen: Float[Tensor, " b"], rejected: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The loss when it is certain which side is better, from the rewards."""

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        chosen, rejected = self.beta * pair.log_ratio
        return label.prob * self.hard(chosen, rejected) + (1 - label.prob) * self.hard(rejected, chosen)


@dataclass(frozen=True)
class NCA(TwoSided):
    """Noise contrast on pairs (arXiv:2402.05369): -log s(r_w) - log s(-r_w) / 2 - log s(-r_l) / 2, s the sigmoid.

    It holds the chosen reward near log 2 instead of raising it for ever.
    """

    def hard(self, chosen: Float[Tensor, " b"], rejected: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


@dataclass(frozen=True)
class BCO(TwoSided):
    """Binary classifier of chosen and rejected (arXiv:2404.04656): -log sigmoid(r_w) - log sigmoid(-r_l).

    The paper shifts all rewards by their running mean. A loss has no memory: `Centered(BCO())` shifts by the mean of
    the micro-batch, and BCO() by nothing, as TRL's DPOTrainer does.
    """

    def hard(self, chosen: Float[Tensor, " b"], rejected: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return -logsigmoid(chosen) - logsigmoid(-rejected)


@dataclass(frozen=True)
class APOZero(TwoSided):
    """Anchored, up and down (arXiv:2408.06266, eq. 7): 1 - sigmoid(r_w) + sigmoid(r_l).

    For chosen answers that are better than what the model says.
    """

    def hard(self, chosen: Float[Tensor, " b"], rejected: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return (-chosen).sigmoid() + rejected.sigmoid()


@dataclass(frozen=True)
class APODown(TwoSided):
    """Anchored, both down (arXiv:2408.06266, eq. 8): sigmoid(r_w) + 1 - sigmoid(r_w - r_l).

    For chosen answers that are worse than what the model says.
    """

    def hard(self, chosen: Float[Tensor, " b"], rejected: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return chosen.sigmoid() + (rejected - chosen).sigmoid()


@dataclass(frozen=True)
class KTO(TwoSided):
    """w_D (1 - s(r_w - z0)) + w_U (1 - s(z0 - r_l)), s the sigmoid (arXiv:2402.01306, eq. 7), on pairs.

    z0 = max(0, mean reward of the micro-batch), without gradient. The paper takes the mean over answers to *other*
    prompts, which a pair does not have; ours is the estimate that the authors of Diffusion-KTO (arXiv:2404.04465) use.

    Args:
        desirable: w_D, weight of chosen sides.
        undesirable: w_U, weight of rejected sides.
    """

    desirable: float = 1.0
    undesirable: float = 1.0

    def hard(self, chosen: Float[Tensor, " b"], rejected: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        z0 = torch.stack([chosen, rejected]).detach().mean().clamp(min=0)
        return self.desirable * (z0 - chosen).sigmoid() + self.undesirable * (rejected - z0).sigmoid()


@dataclass(frozen=True)
class SPPO(PairLoss):
    """(h_w - (P - 1/2) / beta)^2 + (h_l + (P - 1/2) / beta)^2, h the log-ratios (arXiv:2405.00675, eq. 4.7).

    P is `label.prob`: SPPO-hard for hard labels; `WinRateSPPO` reads a win rate of each side. beta is the paper's
    1 / eta, eta = 1000. The authors' code (github.com/uclaml/SPPO) takes half of the sum, TRL and we the sum.
    """

    beta: float = 0.001

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        chosen, rejected = pair.log_ratio
        target = (label.prob - 0.5) / self.beta
        return (chosen - target) ** 2 + (rejected + target) ** 2


@dataclass(frozen=True)
class WinRateSPPO(PairLoss):
    """(h_w - (s_w - 1/2) / beta)^2 + (h_l - (s_l - 1/2) / beta)^2, s the scores: SPPO (arXiv:2405.00675, eq. 4.4).

    A score is the share of the policy's own answers that this one beats, estimated from several of a prompt
    (diffpo.rounds.BestWorst by win rates). With s_l = 1 - s_w this is `SPPO` with that label.
    """

    beta: float = 0.001

    @property
    def needs(self) -> tuple[Need, ...]:
        remedy = "pair with diffpo.rounds.BestWorst by a judge that has no scores of its own"
        return (
            Need("WinRateSPPO", "win rates as scores, and no row has a score", any_scored, remedy),
            Need("WinRateSPPO", "scores within [0, 1], which win rates are", all_within_one, remedy),
        )

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        return ((pair.log_ratio - (label.score - 0.5) / self.beta) ** 2).sum(0)
