"""How much a pair's log-likelihoods count at each time: the weight that the ELBO has and Diffusion-DPO drops."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.core.refusal import Refusal
from diffpo.diffusion.model.denoiser import Denoiser


class TimeWeighting(ABC):
    """Weight of each pair's log-likelihoods, policy and reference alike, so it scales beta by time."""

    @abstractmethod
    def __call__(self, policy: Denoiser, t: Int[Tensor, " b"]) -> Float[Tensor, " b"]: ...


@dataclass(frozen=True)
class InverseSNR(TimeWeighting):
    """1 + norm(1 / sqrt(SNR)) with SNR = a^2 / s^2 ("Rethinking DPO", arXiv:2505.18736).

    The paper says of norm that it is over time, and its figure 2d runs from 1 to 2: hence min-max.

    Raises:
        Refusal: if the schedule ends at zero SNR, whose inverse cannot be normalised.
    """

    def __call__(self, policy: Denoiser, t: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        if not policy.a.all():
            raise Refusal(
                "InverseSNR needs a schedule that never reaches zero SNR, this base's does; use SigmoidSNR instead."
            )
        inverse = policy.s / policy.a
        return 1 + (inverse[t] - inverse.min()) / (inverse.max() - inverse.min())


@dataclass(frozen=True)
class SigmoidSNR(TimeWeighting):
    """sigmoid(b - log SNR) (CaPO, arXiv:2502.02588; the weight is that of arXiv:2303.00848): noisy times count more.

    Args:
        bias: b, the log SNR at which the weight is one half. 1.5 is what one summary of the CaPO paper reports as its
            best; we could not check it there.
    """

    bias: float = 1.5

    def __call__(self, policy: Denoiser, t: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        log_snr = 2 * (policy.a[t].log() - policy.s[t].log())
        return torch.sigmoid(self.bias - log_snr)
