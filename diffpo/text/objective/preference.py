"""The pairwise objective of the text track: DPO and its descendants are settings of its two fields."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective, Requirements, Step, pair_step
from diffpo.core.pair import PairLogps, PairLoss
from diffpo.core.references import SCORES, Reference
from diffpo.core.refusal import Refusal
from diffpo.losses.logistic import Sigmoid
from diffpo.text.data.batches import TokenBatch
from diffpo.text.model.likelihoods import token_logps


class Reduce(ABC):
    """How tokens add up."""

    @abstractmethod
    def weights(self, batch: TokenBatch) -> Float[Tensor, "k b t"]:
        """How much each predicted token counts in the log-likelihood of its completion."""


@dataclass(frozen=True)
class SumTokens(Reduce):
    """Each token of the completion counts alike."""

    def weights(self, batch: TokenBatch) -> Float[Tensor, "k b t"]:
        return batch.scored[..., 1:].float()


@dataclass(frozen=True)
class Desensitised(Reduce):
    """Tokens beyond the length of the shortest candidate of the row count `alpha` (LD-DPO, arXiv:2409.06411).

    Args:
        alpha: 1 is the plain sum; the paper takes 0.3 to 0.6.
    """

    alpha: float = 0.5

    def weights(self, batch: TokenBatch) -> Float[Tensor, "k b t"]:
        scored = batch.scored[..., 1:].float()
        public = scored.sum(-1, keepdim=True).amin(0)
        return scored * torch.where(scored.cumsum(-1) <= public, 1.0, self.alpha)


@dataclass(frozen=True)
class SequencePreference(Objective):
    """log p(completion | prompt) goes into a pairwise loss (DPO, arXiv:2305.18290).

    Args:
        loss: of the two log-likelihoods.
        reduce: how tokens add up to them.

    Raises:
        Refusal: if the loss needs the errors of a denoiser.
    """

    learns_from: ClassVar[str] = "texts"
    loss: PairLoss = field(default_factory=Sigmoid)
    reduce: Reduce = field(default_factory=SumTokens)

    def __post_init__(self):
        require_of_texts(self.loss)

    @property
    def requires(self) -> Requirements:
        return Requirements.of(self.loss, (SCORES,) * self.loss.needs_reference, repr(self.reduce))

    def __call__(self, policy: nn.Module, reference: Reference | None, batch: TokenBatch, draws: Draws) -> Step:
        return self.judged(self.pair(policy, reference, batch), batch)

    def pair(self, policy: nn.Module, reference: Reference | None, batch: TokenBatch) -> PairLogps:
        """What both models say of the candidates."""
        weights = self.reduce.weights(batch)

        def logp(model: nn.Module) -> Float[Tensor, "k b"]:
            return (weights * token_logps(model, batch)).sum(-1)

        # The reference first: the policy's graph is not yet held meanwhile.
        nothing = weights.new_zeros(weights.shape[:2])
        frozen = reference(logp) if reference is not None and self.loss.needs_reference else nothing
        return PairLogps(logp(policy), frozen, length=weights.sum(-1))

    def judged(self, pair: PairLogps, batch: TokenBatch) -> Step:
        step = pair_step(self.loss, pair, batch.label)
        chosen, *_, rejected = pair.policy.detach()
        told = {"logps/chosen": chosen, "logps/rejected": rejected}
        return Step(step.loss, step.metrics | told | length_moments(pair))


def length_moments(pair: PairLogps) -> dict[str, Float[Tensor, " b"]]:
    """What the uncentred correlation of margin and difference in length is made of: length bias.

    Exchanged sides change none of them, and where policy and reference are one, two are 0.
    """
    first, *_, last = pair.log_ratio.detach()
    long, *_, short = pair.length
    margin, longer = first - last, long - short
    return {
        "length/margin_by_difference": margin * longer,
        "length/margin_square": margin.square(),
        "length/difference_square": longer.square(),
    }


def require_of_texts(loss: PairLoss) -> None:
    """Raise a Refusal if a loss needs the errors of a denoiser, which texts have not."""
    if loss.needs_errors:
        raise Refusal(
            f"{type(loss).__name__} needs the errors of a denoiser, texts have likelihoods; choose another loss, e.g. "
            "diffpo.losses.SimPO."
        )
