"""The shared core: log-likelihoods of both sides of each pair go in, one loss per pair comes out.

Axis convention, everywhere: (k, b, ...) holds k candidates for each of b prompts, best first. A pair is k = 2,
so row 0 is chosen and row 1 is rejected; nothing is ever concatenated along the batch by hand.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.moving import Moving
from diffpo.core.needs import PAIR, Candidates, Need
from diffpo.core.pair import PairLabels, PairLogps, PairLoss
from diffpo.core.references import SCORES
from diffpo.core.refusal import Refusal


class Step(NamedTuple):
    """What an objective hands to the loop.

    Attributes:
        loss: what is minimised.
        metrics: one value per pair; NaN where a metric does not apply to that pair.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, Float[Tensor, " b"]]


@dataclass(frozen=True)
class Requirements:
    """What an objective requires of rows, batches and reference, besides its equation.

    Attributes:
        candidates: how many each row has to have; none if prompts are enough.
        of_rows: what they have to tell besides, e.g. what its loss needs.
        answers: what the reference is asked for, by the names of `diffpo.core.references`; empty if none is needed.
        cacheable_by: what, besides batch and draws, decides those answers; None if training changes it, or if an
            answer is more than one number per candidate: then they cannot be remembered.
        unconditional: whether batches have to tell what the network sees without a prompt.
        moving: parts that follow training without a gradient, which checkpoints hold.
    """

    candidates: Candidates = PAIR
    of_rows: tuple[Need, ...] = ()
    answers: tuple[str, ...] = (SCORES,)
    cacheable_by: str | None = None
    unconditional: bool = False
    moving: tuple[Moving, ...] = ()

    @classmethod
    def of(
        cls, loss: PairLoss, answers: tuple[str, ...] = (SCORES,), cacheable_by: str | None = None
    ) -> "Requirements":
        """Those of a pairwise loss, whose candidates and rows are the objective's."""
        return cls(loss.needs_candidates, loss.needs, answers, cacheable_by, moving=loss.moving)

    @property
    def reference(self) -> bool:
        return bool(self.answers)


class Objective(ABC):
    """What one optimiser step minimises. Most methods only set fields of the two pairwise objectives.

    Attributes:
        learns_from: "pictures" or "texts"; empty if from either.
    """

    learns_from: ClassVar[str] = ""

    @property
    def requires(self) -> Requirements:
        """Pairs, and a score of each candidate by the reference, unless a method says otherwise."""
        return Requirements()

    def attach(self, policy: Any, seed: int) -> None:
        """Give the network, before training wraps it, parts that only this objective trains, as submodules of it.

        They are trained and stored in checkpoints like the network, and not exported; a reference has none. Most
        objectives need none.
        """

    def trained(self, policy: Any) -> list[Any]:
        """What the optimizer gets of a policy that is not wrapped yet: its trainable parameters; or groups of them, as
        torch's optimizers take them, where some have a learning rate of their own, the policy's group first."""
        return [p for p in policy.parameters() if p.requires_grad]

    def after(self, steps: int) -> "Objective":
        """The objective that holds once so many optimizer steps were made: itself, unless a method changes with time.

        A run asks anew before each step, so that resuming needs no state; held-out pairs are judged by the objective
        as it was configured.
        """
        return self

    @abstractmethod
    def __call__(self, policy: Any, reference: Any, batch: Any, draws: Draws) -> Step: ...


def pair_step(loss: PairLoss, pair: PairLogps, label: PairLabels) -> Step:
    """Weighted mean loss, with the rewards every preference run is judged by (names as in TRL).

    Raises:
        Refusal: if the loss does not take so many candidates.
    """
    if not loss.needs_candidates.allow(k := len(pair.policy)):
        raise Refusal(
            f"{type(loss).__name__} takes {loss.needs_candidates} candidates per row, rows have {k}; "
            f"{loss.needs_candidates.remedy}."
        )
    per_pair = loss(pair, label)
    return Step((label.weight * per_pair).mean(), rewards(loss.beta * pair.log_ratio))


def rewards(reward: Float[Tensor, "k b"]) -> dict[str, Float[Tensor, " b"]]:
    """The curves every preference run is judged by; a tie counts one half."""
    chosen, *_, rejected = reward.detach()
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": torch.heaviside(chosen - rejected, chosen.new_tensor(0.5)),
    }
