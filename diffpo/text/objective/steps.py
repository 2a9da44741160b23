"""Which steps of two answers are compared, and how much each counts."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from diffpo.core.references import Reference
from diffpo.text.data.batches import TokenBatch
from diffpo.text.model.likelihoods import forward_as, forward_logits
from diffpo.text.model.states import head_of


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
                return forward_logits(model, batch).unflatten(0, batch.ids.shape[:2])

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
