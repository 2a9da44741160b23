"""Losses made of losses: their sum, and what changes what a loss sees."""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core import PairLabels, PairLogps, PairLoss
from diffpo.losses.logistic import Sigmoid
from diffpo.losses.two_sided import BCO
from diffpo.refusal import Refusal


@dataclass(frozen=True)
class Sum(PairLoss):
    """Weighted sum of losses on the same pairs; the first term's beta scales the logged rewards.

    Raises:
        Refusal: if there are no terms, or not one coefficient for each.
    """

    terms: list[PairLoss]
    coefs: list[float]

    def __post_init__(self):
        if not self.terms or len(self.terms) != len(self.coefs):
            raise Refusal(f"Sum needs one coef per term, got {len(self.terms)} terms and coefs {self.coefs}.")

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
    """Any loss on per-element likelihoods: IPO as TRL trains it, DPO-norm (around Sigmoid), ..."""

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


@dataclass(frozen=True)
class Centered(Wrapper):
    """Log-ratios minus their mean over both sides of the micro-batch, without gradient.

    Around BCO this is the published loss (arXiv:2404.04656), whose shift is the mean of the two classes' rewards; the
    paper lets it run over batches. Losses of the margin do not change.
    """

    inner: PairLoss = field(default_factory=BCO)

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        return self.inner(replace(pair, policy=pair.policy - pair.log_ratio.detach().mean()), label)


@dataclass(frozen=True)
class AOT(Wrapper):
    """Alignment by optimal transport, paired (arXiv:2406.05882): distributions of margins are compared, not margins.

    Margins log p_w - log p_l of policy and of reference are sorted over the micro-batch, and those of the same rank
    go into a loss of the margin. Loss, label and weight of a rank belong to the pair that has it under the policy. A
    micro-batch of one is the inner loss; the larger it is, the closer to distributions: prefer it to accumulation.
    """

    inner: PairLoss = field(default_factory=Sigmoid)

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        policy, reference = pair.policy[0] - pair.policy[1], pair.reference[0] - pair.reference[1]
        rank = policy.argsort().argsort()
        matched = reference.sort().values[rank]
        return self.inner(replace(pair, reference=torch.stack([matched, torch.zeros_like(matched)])), label)
