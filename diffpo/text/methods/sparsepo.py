"""SparsePO: masks say at which tokens the policy is compared and may leave the reference."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective, Requirements, Step, pair_step
from diffpo.core.pair import PairLogps, PairLoss
from diffpo.core.references import Reference
from diffpo.core.refusal import Refusal
from diffpo.losses.logistic import Sigmoid
from diffpo.text.data.batches import TokenBatch
from diffpo.text.objective.divergence import compare_tokens
from diffpo.text.objective.masks import LearnedMasks, TokenMask
from diffpo.text.objective.preference import require_of_texts


@dataclass(frozen=True)
class SparsePO(Objective):
    """-log sigmoid(beta (u - d)) plus the masks' l1 norms (arXiv:2410.05102, github.com/huawei-noah/HEBO, SparsePO).

        u = sum_t m_t log-ratio_t |chosen - ... |rejected,   d = -sum_t m'_t KL(reference || policy)_t |chosen + ...

    with m, m' of `mask` and the divergences over the whole vocabulary, whose gradients are not stopped. So the chosen
    answer may move away from the reference where m' is large, and the rejected one is held. The logged rewards are
    what the margin compares, beta (sum m log-ratio + sum m' KL); the authors' code logs the difference of the two.
    beta 0.8 on IMDB, TL;DR and MBPP, 0.1 on HH. With `EveryToken` this is TDPO in its first form.

    Args:
        loss: of the masked sums.
        mask: how much each token counts.

    Raises:
        Refusal: if the loss needs true probabilities, or the errors of a denoiser.
    """

    learns_from: ClassVar[str] = "texts"
    loss: PairLoss = field(default_factory=Sigmoid)
    mask: TokenMask = field(default_factory=LearnedMasks)

    def __post_init__(self):
        require_of_texts(self.loss)
        if self.loss.needs_probability:
            raise Refusal(
                f"{type(self.loss).__name__} needs true probabilities, masked sums are none; choose a loss of "
                "margins, e.g. diffpo.losses.Sigmoid."
            )

    @property
    def requires(self) -> Requirements:
        return Requirements.of(self.loss)

    def attach(self, policy: nn.Module, seed: int) -> None:
        self.mask.attach(policy, seed)

    def __call__(self, policy: nn.Module, reference: Reference, batch: TokenBatch, draws: Draws) -> Step:
        scored = batch.scored[..., 1:]
        masks = self.mask(policy, reference, batch)
        both = compare_tokens(policy, reference, batch, where=scored)
        divergence = masks.divergence * both.divergence
        pair = PairLogps(
            policy=(masks.ratio * both.policy + divergence).sum(-1),
            reference=(masks.ratio * both.reference).sum(-1),
            length=masks.ratio.sum(-1),
        )
        step = pair_step(self.loss, pair, batch.label)
        tokens = scored.sum((0, 2))
        curves = {
            "mask/density": (masks.ratio > 0).sum((0, 2)) / tokens,
            "mask/mean": masks.ratio.detach().sum((0, 2)) / tokens,
            "divergence/chosen": both.divergence[0].detach().sum(-1),
            "divergence/rejected": both.divergence[-1].detach().sum(-1),
        }
        return Step(step.loss + (batch.label.weight * masks.cost).mean(), step.metrics | curves)
