"""Pairwise losses. Each class is one equation; its fields are its hyper-parameters.

All of them read P(chosen wins) from the label: a soft label mixes the loss of the pair and of the swapped pair.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

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


@dataclass(frozen=True)
class Hinge(PairLoss):
    """SLiC on log-ratios (arXiv:2305.10425, arXiv:2309.06657): max(0, 1 - beta margin)."""

    beta: float = 0.1

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        z = self.beta * pair.margin
        return label.prob * relu(1 - z) + (1 - label.prob) * relu(1 + z)


@dataclass(frozen=True)
class IPO(PairLoss):
    """Squared distance to a finite margin (arXiv:2310.12036, eq. 17): (margin - 1 / (2 beta))^2 for a hard label."""

    beta: float = 0.1

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        return (pair.margin - (label.prob - 0.5) / self.beta) ** 2


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
class ChosenNLL(PairLoss):
    """Mean negative log-likelihood of the chosen side: the SFT term of CPO, RPO, ORPO and others."""

    needs_reference: ClassVar[bool] = False

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        return -pair.policy[0] / pair.length[0]


@dataclass(frozen=True)
class Sum(PairLoss):
    """Weighted sum of losses on the same pairs; the first term's beta scales the logged rewards.

    Raises:
        ValueError: if there are no terms, or not one coefficient for each.
    """

    terms: list[PairLoss]
    coefs: list[float]

    def __post_init__(self):
        if not self.terms or len(self.terms) != len(self.coefs):
            raise ValueError(f"Sum needs one coef per term, got {len(self.terms)} terms and coefs {self.coefs}.")

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        return any(term.needs_reference for term in self.terms)

    @property
    def needs_probability(self) -> bool:  # type: ignore[override]
        return any(term.needs_probability for term in self.terms)

    @property
    def beta(self) -> float:  # type: ignore[override]
        return self.terms[0].beta

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        return torch.stack([c * term(pair, label) for c, term in zip(self.coefs, self.terms, strict=True)]).sum(0)


@dataclass(frozen=True)
class Wrapper(PairLoss):
    """A loss that changes what another loss sees."""

    inner: PairLoss

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        return self.inner.needs_reference

    @property
    def needs_probability(self) -> bool:  # type: ignore[override]
        return self.inner.needs_probability

    @property
    def beta(self) -> float:  # type: ignore[override]
        return self.inner.beta


@dataclass(frozen=True)
class LengthNormalised(Wrapper):
    """Any loss on per-element likelihoods: IPO as TRL trains it, DPO-norm, ..."""

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        one = torch.ones_like(pair.length)
        return self.inner(PairLogps(pair.policy / pair.length, pair.reference / pair.length, length=one), label)


@dataclass(frozen=True)
class Confidence(Wrapper):
    """Margins scaled by gamma (2 prob - 1), then taken as hard labels (SmPO, arXiv:2506.02698)."""

    gamma: float = 10.0

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        scale = self.gamma * (2 * label.prob - 1)
        scaled = replace(pair, policy=scale * pair.policy, reference=scale * pair.reference)
        return self.inner(scaled, replace(label, prob=torch.ones_like(label.prob)))
