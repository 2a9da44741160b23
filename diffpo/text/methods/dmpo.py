"""DMPO: the first turns of a conversation count most."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.core.refusal import Refusal
from diffpo.text.data.batches import TokenBatch
from diffpo.text.objective.preference import Reduce, SequencePreference


@dataclass(frozen=True)
class TurnDiscount(Reduce):
    """Tokens of turn t = 0 ... T - 1 count gamma^t (1 - gamma^(T - t)) / (1 - gamma^T) (arXiv:2406.14868).

    The first turn counts 1 and later ones less and less; gamma = 1 is the limit (T - t) / T. A turn is an answer of
    the model, turn 0 the first that is scored; what users and tools say counts nothing. T is the completion's own
    number of scored turns: turns that truncation has cut are not counted, neither for the policy nor the reference.
    One turn (a plain completion) is the sum of its tokens, whatever gamma.

    Args:
        gamma: in (0, 1]; 0.7 in the authors' code.

    Raises:
        Refusal: if gamma is out of its range.
    """

    gamma: float = 0.7

    def __post_init__(self):
        if not 0 < self.gamma <= 1:
            raise Refusal(f"TurnDiscount needs a gamma in (0, 1], got {self.gamma}; the authors use 0.7.")

    def weights(self, batch: TokenBatch) -> Float[Tensor, "k b t"]:
        scored, part = batch.scored[..., 1:], batch.part[..., 1:]
        last = (part * scored).amax(-1, keepdim=True)
        first = part.masked_fill(~scored, torch.iinfo(part.dtype).max).amin(-1, keepdim=True)
        return self.factor(part - first, last - first + 1).where(scored, 0.0)

    def factor(self, turn: Int[Tensor, "..."], turns: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The weight of a turn, counted from 0, of so many."""
        if self.gamma == 1:
            return (turns - turn) / turns
        log_gamma = math.log(self.gamma)  # expm1 keeps the digits that 1 - gamma^n loses near 1
        share = torch.expm1((turns - turn) * log_gamma) / torch.expm1(turns * log_gamma)
        return torch.exp(turn * log_gamma) * share


@dataclass(frozen=True)
class DMPO(SequencePreference):
    """DPO over the turns of a conversation (arXiv:2406.14868): -log sigmoid(beta (sum_t phi_t h_w,t - ...)).

    h_t is the log-ratio of turn t, summed over its tokens, and phi_t the weight of `TurnDiscount`, with each side's
    own number of turns: from a constraint on what states and actions are visited instead of on the policy alone. From
    the authors' code (github.com/swt-user/DMPO): beta 0.1, gamma 0.7, after fine-tuning on expert trajectories; pairs
    are an expert's trajectory and the model's own. Its token-wise variant takes wrong weights and is not followed.

    Candidates are lists of messages, or `Completion`s whose parts are turns.
    """

    reduce: Reduce = field(default_factory=TurnDiscount)
