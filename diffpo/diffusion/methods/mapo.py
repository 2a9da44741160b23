"""MaPO: margin-aware preference optimization without a reference."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffpo.core.pair import PairLabels, PairLogps, PairLoss
from diffpo.core.refusal import require_positive


@dataclass(frozen=True)
class MaPO(PairLoss):
    """m_w - beta log sigmoid(T [phi(m_w) - phi(m_l)]) with phi(m) = s m / (exp(s m) - 1) (arXiv:2406.06424).

    As in the authors' code (github.com/mapo-t2i/mapo). The errors m are read off the log-likelihoods of
    `DenoisingPreference` as -2 log p, which is the mean squared error at its `scale` 1 and without its `weighting`;
    it refuses others. There being no reference, a logged reward is -beta m / 2.

    Args:
        beta: weight of the margin against the fit to the winner, as in the code. The paper's betas (8 for preference,
            64 for style, 1024 for personalization) belong to its own formula, which divides by beta.
        snr: s, how fast phi falls from 1.
        timesteps: T, the length of the noise schedule.

    Raises:
        Refusal: if one of these is not positive.
    """

    needs_reference: ClassVar[bool] = False
    needs_errors: ClassVar[bool] = True
    beta: float = 0.1
    snr: float = 0.5
    timesteps: int = 1000

    def __post_init__(self):
        super().__post_init__()
        require_positive(self, snr=self.snr, timesteps=self.timesteps)

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        chosen, rejected = -2 * pair.policy
        z = self.timesteps * (self.phi(chosen) - self.phi(rejected))
        as_labeled, swapped = chosen - self.beta * logsigmoid(z), rejected - self.beta * logsigmoid(-z)
        return label.prob * as_labeled + (1 - label.prob) * swapped

    def phi(self, error: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """1 without any error, as at the last time of zero terminal SNR, where 0 / 0 would end a run."""
        scaled = self.snr * error
        none = scaled == 0
        some = torch.where(none, 1.0, scaled)
        return torch.where(none, 1 - scaled / 2, some / torch.expm1(some))
