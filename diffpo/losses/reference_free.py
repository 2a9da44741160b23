"""Losses that need no reference. A soft label mixes both orders of the pair; SFT terms imitate the chosen side."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from diffpo.core.pair import PairLabels, PairLogps, PairLoss
from diffpo.losses.likelihood import ChosenNLL, ChosenTotalNLL

NEARLY_CERTAIN = -1e-6  # largest mean log-likelihood whose odds are finite in fp32


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


@dataclass(frozen=True)
class SLiC(PairLoss):
    """max(0, delta - log p_w + log p_l) - lam log p_w on sums of tokens: SLiC-HF as published (arXiv:2305.10425).

    The paper regularizes with its SFT targets or its best-ranked answers; here that is the chosen side. `Hinge` is the
    form on log-ratios.

    Args:
        delta: the margin asked for.
        lam: weight of the SFT term.
    """

    needs_reference: ClassVar[bool] = False
    delta: float = 1.0
    lam: float = 0.5

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        chosen, rejected = pair.policy
        z = chosen - rejected
        ranked = label.prob * relu(self.delta - z) + (1 - label.prob) * relu(self.delta + z)
        return ranked + self.lam * ChosenTotalNLL()(pair, label)


@dataclass(frozen=True)
class CPO(PairLoss):
    """-log sigmoid(beta (log p_w - log p_l)) + lam NLL(chosen) (arXiv:2401.08417): DPO with a uniform reference.

    Likelihoods are summed in the first term and averaged over tokens in the second, as in the code that came with it.

    Args:
        lam: weight of the SFT term; 1 in the paper.
    """

    needs_reference: ClassVar[bool] = False
    beta: float = 0.1
    lam: float = 1.0

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        chosen, rejected = pair.policy
        z = self.beta * (chosen - rejected)
        ranked = -label.prob * logsigmoid(z) - (1 - label.prob) * logsigmoid(-z)
        return ranked + self.lam * ChosenNLL()(pair, label)


@dataclass(frozen=True)
class ORPO(PairLoss):
    """NLL(chosen) - lam log sigmoid(o_w - o_l), o the log-odds of the mean token (arXiv:2403.07691, eqs. 6 and 7).

    The NLL is that of the answer; the authors' code includes the prompt's tokens.

    Args:
        lam: weight of the odds ratio.
    """

    needs_reference: ClassVar[bool] = False
    needs_probability: ClassVar[bool] = True
    lam: float = 0.1

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        chosen, rejected = log_odds(pair)
        z = chosen - rejected
        ranked = -label.prob * logsigmoid(z) - (1 - label.prob) * logsigmoid(-z)
        return ChosenNLL()(pair, label) + self.lam * ranked


@dataclass(frozen=True)
class ASFT(PairLoss):
    """NLL(chosen) - lam [log sigmoid(beta o_w) + log sigmoid(-beta o_l)], o as in ORPO (arXiv:2409.10571).

    Each side is judged alone. With beta = 1, the published form, it is -(1 + lam) log p_w - lam log(1 - p_l), p the
    likelihood of the mean token; other betas are those of the study arXiv:2502.01237.

    Args:
        lam: weight of the two absolute terms; 0 is SFT.
    """

    needs_reference: ClassVar[bool] = False
    needs_probability: ClassVar[bool] = True
    beta: float = 1.0
    lam: float = 1.0

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        up, down = -logsigmoid(self.beta * log_odds(pair)), -logsigmoid(-self.beta * log_odds(pair))
        absolute = label.prob * (up[0] + down[1]) + (1 - label.prob) * (up[1] + down[0])
        return ChosenNLL()(pair, label) + self.lam * absolute


def log_odds(pair: PairLogps) -> Float[Tensor, "k b"]:
    """log(p / (1 - p)) with p the geometric mean of the tokens' probabilities; p stops short of 1, where it is
    infinite."""
    mean = (pair.policy / pair.length).clamp(max=NEARLY_CERTAIN)
    # log(1 - exp(mean)), by whichever form loses no digits.
    rest = torch.where(mean > -math.log(2), torch.log(-torch.expm1(mean)), torch.log1p(-mean.exp()))
    return mean - rest
