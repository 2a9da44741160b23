"""Token log-likelihoods of completions, and how they add up to one number for each."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from diffpo.core import PairLabels


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Candidates of b prompts, tokenised and padded on the right.

    Attributes:
        ids: tokens of prompt and completion.
        attended: tokens that are no padding.
        scored: tokens whose likelihood counts: those of the completion.
        part: number, from 1, of the part of the completion that a token belongs to (turn, step or marked span); 0
            elsewhere.
        label: what the data say.
        row: id of each row.
        epoch: of each row.
        inputs: what else the network is given, e.g. `pixel_values`, with k * b rows.
    """

    ids: Int[Tensor, "k b s"]
    attended: Bool[Tensor, "k b s"]
    scored: Bool[Tensor, "k b s"]
    part: Int[Tensor, "k b s"]
    label: PairLabels
    row: tuple[int, ...]
    epoch: tuple[int, ...]
    inputs: Mapping[str, Tensor] = field(default_factory=dict)


def token_logps(model: nn.Module, batch: TokenBatch) -> Float[Tensor, "k b t"]:
    """log p(token | earlier tokens) in fp32, t = s - 1 predictions, zero where a token is not scored."""
    logps = token_logits(model, batch).log_softmax(-1)
    return logps.gather(-1, batch.ids[..., 1:, None]).squeeze(-1) * batch.scored[..., 1:]


def token_logits(model: nn.Module, batch: TokenBatch) -> Float[Tensor, "k b t v"]:
    """Logits over the whole vocabulary in fp32, for methods that need the distribution of each token."""
    logits = model(batch.ids.flatten(0, 1), attention_mask=batch.attended.flatten(0, 1).long(), **batch.inputs).logits
    return logits[:, :-1].float().unflatten(0, batch.ids.shape[:2])


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
