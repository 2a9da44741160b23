"""Pairs with chosen numbers for tests of the losses, and one of each loss."""

from dataclasses import replace

import torch

from diffpo.core.pair import PairLabels, PairLogps, PairLoss
from diffpo.losses.adaptive import AutoBeta
from diffpo.losses.combined import AOT, Centered, Confidence, LengthNormalised, Sum
from diffpo.losses.divergence import AlphaDivergence, JensenShannon
from diffpo.losses.likelihood import RPO, ChosenNLL, ChosenTotalNLL, ImplicitReward
from diffpo.losses.logistic import EXO, ODPO, DiscoPOP, FlexDPO, Robust, Sigmoid
from diffpo.losses.margin import IPO, Hinge
from diffpo.losses.reference_free import ASFT, CPO, ORPO, SimPO, SLiC
from diffpo.losses.two_sided import BCO, KTO, NCA, SPPO, APODown, APOZero

MARGIN: list[PairLoss] = [Sigmoid(0.5), Robust(0.5), EXO(0.5), DiscoPOP(0.5), ODPO(0.5), Hinge(0.5), IPO(0.5)]
TWO_SIDED: list[PairLoss] = [NCA(0.5), BCO(0.5), APOZero(0.5), APODown(0.5), KTO(0.5), SPPO(0.5), FlexDPO(0.5, 0.4)]
REFERENCE_FREE: list[PairLoss] = [SimPO(), SLiC(), CPO()]
PROBABILITY: list[PairLoss] = [ORPO(), ASFT()]
CHOSEN: list[PairLoss] = [ChosenNLL(), ChosenTotalNLL(), RPO(), ImplicitReward()]
WRAPPED: list[PairLoss] = [
    LengthNormalised(Sigmoid()),
    Confidence(IPO()),
    Centered(),
    AOT(),
    AutoBeta(high=0.5),
    AlphaDivergence(),
    JensenShannon(),
    Sum([Sigmoid(), ChosenNLL()], [1.0, 0.2]),
]
SURROGATE: list[PairLoss] = [*MARGIN, *TWO_SIDED, *REFERENCE_FREE, *CHOSEN, *WRAPPED]


def sides(chosen: list[float], rejected: list[float], lengths: tuple[float, float] = (1.0, 1.0)) -> PairLogps:
    """Pairs of these log-likelihoods under the policy, and of 0 under the reference."""
    policy = torch.tensor([chosen, rejected])
    return PairLogps(policy, torch.zeros_like(policy), torch.tensor(lengths)[:, None].expand_as(policy))


def at(margin: float | torch.Tensor) -> PairLogps:
    """Pairs whose margin is given, with lengths that must not matter."""
    margin = torch.as_tensor(margin, dtype=torch.float32).reshape(-1)
    zero = torch.zeros_like(margin)
    return PairLogps(torch.stack([margin, zero]), torch.stack([zero, zero]), torch.stack([zero + 3, zero + 7]))


def labels(prob: float, b: int = 1, gap: float = 1.0) -> PairLabels:
    """Equal labels; the chosen side is scored `gap` higher."""
    score = torch.tensor([[gap], [0.0]]).expand(2, b)
    return replace(PairLabels.hard(b), prob=torch.full((b,), prob), score=score)


def likely(b: int = 5, seed: int = 0) -> PairLogps:
    """Random pairs whose likelihoods are those of probabilities."""
    rng = torch.Generator().manual_seed(seed)
    policy, reference = -3 * torch.rand(2, 2, b, generator=rng) - 0.1
    return PairLogps(policy, reference, torch.randint(1, 9, (2, b), generator=rng).float())


def swapped(pair: PairLogps) -> PairLogps:
    return PairLogps(pair.policy.flip(0), pair.reference.flip(0), pair.length.flip(0))


def pulls(loss: PairLoss, pair: PairLogps, label: PairLabels) -> torch.Tensor:
    """Gradient of the summed loss in the log-likelihoods of both sides, (2, b)."""
    policy = pair.policy.detach().clone().requires_grad_()
    loss(replace(pair, policy=policy), label).sum().backward()
    assert policy.grad is not None
    return policy.grad
