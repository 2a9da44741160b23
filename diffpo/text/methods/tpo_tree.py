"""TPO: ranked lists of answers from a preference tree, compared step by step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize, one_hot

from diffpo.core import Objective, Step, rewards
from diffpo.draws import Draws
from diffpo.references import Reference
from diffpo.text.sequences import TokenBatch, forward, forward_as, token_logps
from diffpo.text.states import head_of


class PairWeight(ABC):
    """How much each two answers of a list count."""

    @abstractmethod
    def __call__(self, reward: Float[Tensor, "k b"], score: Float[Tensor, "k b"]) -> Float[Tensor, "k k b"]: ...


@dataclass(frozen=True)
class Alike(PairWeight):
    """All count 1; of a list of two, that is DPO."""

    def __call__(self, reward: Float[Tensor, "k b"], score: Float[Tensor, "k b"]) -> Float[Tensor, "k k b"]:
        return torch.ones(len(score), *score.shape, device=score.device)


@dataclass(frozen=True)
class LambdaRank(PairWeight):
    """|2^v_i - 2^v_j| |1 / log(1 + rank_i) - 1 / log(1 + rank_j)|, the rank being that of the rewards, the best 1.

    Equal rewards, as all are before the first step, are ranked in the order of the list, best first.
    """

    def __call__(self, reward: Float[Tensor, "k b"], score: Float[Tensor, "k b"]) -> Float[Tensor, "k k b"]:
        rank = reward.detach().argsort(dim=0, descending=True, stable=True).argsort(dim=0) + 1
        gain, discount = 2**score, 1 / torch.log1p(rank)
        return (gain[:, None] - gain).abs() * (discount[:, None] - discount).abs()


class StepWeight(ABC):
    """How much each step of two answers counts."""

    @abstractmethod
    def __call__(self, reference: Reference, batch: TokenBatch, steps: "Steps") -> Float[Tensor, "k k b n"]: ...


@dataclass(frozen=True)
class EqualSteps(StepWeight):
    """All steps count 1, so answers are compared whole."""

    def __call__(self, reference: Reference, batch: TokenBatch, steps: "Steps") -> Float[Tensor, "k k b n"]:
        return torch.ones(steps.merged.shape[:-1], device=batch.ids.device)


@dataclass(frozen=True)
class SimilarSteps(StepWeight):
    """1 + cos(e_i, e_j) with e the mean state of the reference's last layer over a step (the paper leaves e open).

    Up to 2 for steps that mean the same, which makes most of the small differences there, though the paper speaks of
    steps that discriminate; equal steps still add nothing, the factor being that of a difference.
    """

    def __call__(self, reference: Reference, batch: TokenBatch, steps: "Steps") -> Float[Tensor, "k k b n"]:
        def sums(states: Float[Tensor, "m s d"]) -> Float[Tensor, "m n d"]:
            return steps.tokens.flatten(0, 1).mT @ states[:, 1:].float()

        def found(model: nn.Module) -> Float[Tensor, "k b n d"]:
            with forward_as(head_of(model), sums):
                return forward(model, batch).unflatten(0, batch.ids.shape[:2])

        unit = normalize(torch.einsum("ibnd,ijbnm->ijbmd", reference(found), steps.merged), dim=-1)
        return 1 + (unit * unit.transpose(0, 1)).sum(-1)


@dataclass(frozen=True, eq=False)
class Steps:
    """Which tokens make which step, and which steps of two answers are compared.

    Attributes:
        tokens: 1 where a predicted token belongs to the n-th step.
        merged: 1 where the n-th step of answer i is part of the m-th that it is compared in with answer j: steps have
            the same number in both, and what the longer answer has left belongs to the last.
    """

    tokens: Float[Tensor, "k b t n"]
    merged: Float[Tensor, "k k b n n"]

    @classmethod
    def of(cls, batch: TokenBatch) -> "Steps":
        part = batch.part[..., 1:] * batch.scored[..., 1:]
        count = part.amax(-1)
        n = int(count.max())
        shared = torch.minimum(count[:, None], count)
        number = torch.arange(n, device=part.device).minimum(shared[..., None] - 1)
        return cls(one_hot(part, n + 1)[..., 1:].float(), one_hot(number, n).float())


@dataclass(frozen=True)
class TPO(Objective):
    """-sum over v_i > v_j of lambda_ij log sigmoid(sum_s w_s beta (l_i,s - l_j,s)), v the scores (arXiv:2410.12854).

    l_i,s is the log-ratio of step s of answer i, w the weight of the step, lambda that of the two answers. The sum is
    over pairs, as in the paper: a list of k asks for a smaller learning rate than one of two. As printed, w multiplies
    the first term of the difference only, so that a shared step would count; the text says that it does not. The
    authors' code (github.com/MrBlankness/TPO) is not followed: it does not shift labels, passes the loss once more
    through -log sigmoid, which turns its sign, has no lambda, and lets equal scores add log 2.

    Rows are lists, best first, with scores in [0, 1] (`diffpo.text.lists.Lists`); steps are the parts of a
    `Completion` (`diffpo.text.spans.SplitSteps`), a plain text is one step.

    Args:
        beta: 0.5 in the paper.
        pairs: weight of each two answers.
        steps: weight of each step of theirs.
    """

    beta: float = 0.5
    pairs: PairWeight = field(default_factory=LambdaRank)
    steps: StepWeight = field(default_factory=SimilarSteps)

    def __call__(self, policy: nn.Module, reference: Reference, batch: TokenBatch, draws: Draws) -> Step:
        steps, score = Steps.of(batch), batch.label.score
        frozen = reference(lambda model: token_logps(model, batch))
        ratio = token_logps(policy, batch) - frozen
        reward = self.beta * ratio.sum(-1)
        by_step = torch.einsum("kbt,kbtn->kbn", ratio, steps.tokens)
        compared = torch.einsum("ibn,ijbnm->ijbm", by_step, steps.merged)
        weight = self.steps(reference, batch, steps)
        margin = self.beta * (weight * (compared - compared.transpose(0, 1))).sum(-1)
        better = score[:, None] > score
        losses = -(self.pairs(reward, score) * logsigmoid(margin)).where(better, 0.0).sum((0, 1))
        return Step((batch.label.weight * losses).mean(), rewards(reward))
