"""TPO: ranked lists of answers from a preference tree, compared step by step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from diffpo.core.draws import Draws
from diffpo.core.needs import Candidates, Need, all_within_one
from diffpo.core.objective import Objective, Requirements, Step, rewards
from diffpo.core.references import Reference
from diffpo.core.refusal import require_positive
from diffpo.text.data.batches import TokenBatch
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.objective.steps import SimilarSteps, Steps, StepWeight


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


@dataclass(frozen=True)
class TPO(Objective):
    """-sum over v_i > v_j of lambda_ij log sigmoid(sum_s w_s beta (l_i,s - l_j,s)), v the scores (arXiv:2410.12854).

    l_i,s is the log-ratio of step s of answer i, w the weight of the step, lambda that of the two answers. The sum is
    over pairs, as in the paper: a list of k asks for a smaller learning rate than one of two. As printed, w multiplies
    the first term of the difference only, so that a shared step would count; the text says that it does not. The
    authors' code (github.com/MrBlankness/TPO) is not followed: it does not shift labels, passes the loss once more
    through -log sigmoid, which turns its sign, has no lambda, and lets equal scores add log 2.

    Rows are lists, best first, with scores in [0, 1] (`diffpo.text.Lists`); steps are the parts of a
    `Completion` (`diffpo.text.SplitSteps`), a plain text is one step.

    Args:
        beta: 0.5 in the paper.
        pairs: weight of each two answers.
        steps: weight of each step of theirs.

    Raises:
        Refusal: if `beta` is not positive.
    """

    learns_from: ClassVar[str] = "texts"
    beta: float = 0.5
    pairs: PairWeight = field(default_factory=LambdaRank)
    steps: StepWeight = field(default_factory=SimilarSteps)

    def __post_init__(self):
        require_positive(self, beta=self.beta)

    @property
    def requires(self) -> Requirements:
        scores = Need(
            "TPO",
            "scores in [0, 1] that differ within a row",
            lambda rows: all_within_one(rows) and any(len(set(row.scores)) > 1 for row in rows),
            "read the data with diffpo.text.Lists, and set its low and high to the range of the scorer",
        )
        return Requirements(Candidates(2), (scores,))

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
