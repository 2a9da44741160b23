"""Losses made of losses: their sum, and what changes what a loss sees."""

import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core.moving import Moving
from diffpo.core.needs import Candidates, Need, any_uncertain
from diffpo.core.pair import PairLabels, PairLogps, PairLoss
from diffpo.core.refusal import Refusal, require_positive
from diffpo.losses.logistic import Sigmoid
from diffpo.losses.two_sided import BCO


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
    def needs_errors(self) -> bool:  # type: ignore[override]
        return any(term.needs_errors for term in self.terms)

    @property
    def needs_candidates(self) -> Candidates:
        return min((term.needs_candidates for term in self.terms), key=lambda takes: takes.most or math.inf)

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(need for term in self.terms for need in term.needs)

    @property
    def moving(self) -> tuple[Moving, ...]:
        return tuple(part for term in self.terms for part in term.moving)

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
    def needs_errors(self) -> bool:  # type: ignore[override]
        return self.inner.needs_errors

    @property
    def needs_candidates(self) -> Candidates:
        return self.inner.needs_candidates

    @property
    def needs(self) -> tuple[Need, ...]:
        return self.inner.needs

    @property
    def moving(self) -> tuple[Moving, ...]:
        return self.inner.moving

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
    """Margins scaled by gamma (2 prob - 1), then taken as hard labels (SmPO, arXiv:2506.02698).

    It needs labels that are not all certain: of certain ones gamma makes nothing but another beta, ten times as large.

    Raises:
        Refusal: if `gamma` is not positive.
    """

    gamma: float = 10.0

    def __post_init__(self):
        super().__post_init__()
        require_positive(self, gamma=self.gamma)

    @property
    def needs(self) -> tuple[Need, ...]:
        uncertain = Need(
            "Confidence",
            f"labels that are uncertain, and no row has one: gamma {self.gamma:g} would do nothing but multiply beta",
            any_uncertain,
            "end data.rows with diffpo.data.ScoreLabel, or let data.source read a column of probabilities",
        )
        return (uncertain, needs_comparison(self), *self.inner.needs)

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

    @property
    def needs(self) -> tuple[Need, ...]:
        return (needs_comparison(self), *self.inner.needs)

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

    @property
    def needs(self) -> tuple[Need, ...]:
        return (needs_margins(self), *self.inner.needs)

    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]:
        policy, reference = pair.policy[0] - pair.policy[1], pair.reference[0] - pair.reference[1]
        rank = policy.argsort().argsort()
        matched = reference.sort().values[rank]
        return self.inner(replace(pair, reference=torch.stack([matched, torch.zeros_like(matched)])), label)


def needs_comparison(wrapper: Wrapper) -> Need:
    """The inner loss has to compare likelihoods, which may then be changed, and read nothing else off them."""
    inner = wrapper.inner
    return Need(
        type(wrapper).__name__,
        f"a loss that compares likelihoods, as it changes them, and {type(inner).__name__} reads more off them",
        lambda _: not (inner.needs_probability or inner.needs_errors),
        "wrap another loss, e.g. diffpo.losses.Sigmoid",
    )


def needs_margins(wrapper: Wrapper) -> Need:
    """The inner loss has to be one of the margin."""
    inner = wrapper.inner
    return Need(
        type(wrapper).__name__,
        f"a loss of the margin, and {type(inner).__name__} sees more of a pair",
        lambda _: sees_margins_alone(inner),
        "wrap another loss, e.g. diffpo.losses.Sigmoid",
    )


def sees_margins_alone(loss: PairLoss) -> bool:
    """Whether a loss says the same of three pairs that differ in all but the margin."""
    ratio = torch.tensor([[-2.0, -1.0, -3.0], [-1.5, -2.5, -3.25]])
    reference, shift = torch.tensor([[0.5, -0.25, 1.0], [1.25, 0.75, -0.5]]), torch.tensor([-0.5, 0.25, -1.0])
    length, score = torch.tensor([[2.0] * 3, [3.0] * 3]), torch.tensor([[2.0] * 3, [1.0] * 3])
    label = PairLabels(torch.tensor([1.0, 0.75, 0.5]), score, torch.ones(3))
    one = PairLogps(ratio, torch.zeros_like(ratio), length)
    other = PairLogps(ratio + reference + shift, reference, length)
    return torch.allclose(loss(one, label), loss(other, label), rtol=1e-4, atol=1e-6)
