"""The shared core: log-likelihoods of both sides of each pair go in, one loss per pair comes out.

Axis convention, everywhere: (k, b, ...) holds k candidates for each of b prompts, best first. A pair is k = 2,
so row 0 is chosen and row 1 is rejected; nothing is ever concatenated along the batch by hand.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.draws import Draws
from diffpo.needs import PAIR, Candidates, Need
from diffpo.references import SCORES
from diffpo.refusal import Refusal, require_positive


@dataclass(frozen=True, eq=False)
class PairLogps:
    """What the models say about b pairs (or lists of k).

    Attributes:
        policy: log-likelihood under the model being trained (text: exact; images: a denoising surrogate).
        reference: the same under frozen weights; zeros for a reference-free loss.
        length: scored elements per side, for losses that normalise by length.
    """

    policy: Float[Tensor, "k b"]
    reference: Float[Tensor, "k b"]
    length: Float[Tensor, "k b"]

    @property
    def log_ratio(self) -> Float[Tensor, "k b"]:
        return self.policy - self.reference

    @property
    def margin(self) -> Float[Tensor, " b"]:
        """Log-ratio of the chosen side minus that of the rejected one.

        Raises:
            Refusal: if these are no pairs.
        """
        if (k := len(self.policy)) != 2:
            raise Refusal(f"A margin lies between 2 candidates, these rows have {k}; choose a loss of so many.")
        chosen, rejected = self.log_ratio
        return chosen - rejected


@dataclass(frozen=True, eq=False)
class PairLabels:
    """What the data say about b pairs.

    Attributes:
        prob: P(chosen beats rejected); 1 is a hard label, 1 - eps a smoothed one.
        score: scorer outputs per side, zeros when no scorer was used.
        weight: importance of each pair in the batch mean.
    """

    prob: Float[Tensor, " b"]
    score: Float[Tensor, "k b"]
    weight: Float[Tensor, " b"]

    @classmethod
    def hard(cls, b: int, device: torch.device | str = "cpu") -> "PairLabels":
        ones = torch.ones(b, device=device)
        return cls(prob=ones, score=torch.zeros(2, b, device=device), weight=ones)

    def map(self, change: Callable[[Tensor], Tensor]) -> "PairLabels":
        """The same labels with each tensor changed, e.g. moved to a device."""
        return PairLabels(change(self.prob), change(self.score), change(self.weight))


class PairLoss(ABC):
    """Likelihoods and labels in, one loss per pair out. Pure: no model, no state, no randomness.

    Attributes:
        needs_reference: False spares the reference pass.
        needs_probability: True if the log-likelihoods must be those of probabilities (ORPO, ASFT): the image
            surrogate is not, so image objectives refuse such a loss.
        needs_errors: True if they must be minus half the mean squared errors of a denoiser (MaPO): those of texts are
            not, so text objectives refuse such a loss.
        beta: what turns a log-ratio into the reward that is logged.

    Raises:
        Refusal: if `beta` is not positive.
    """

    needs_reference: ClassVar[bool] = True
    needs_probability: ClassVar[bool] = False
    needs_errors: ClassVar[bool] = False
    beta: float = 1.0

    def __post_init__(self):
        """With a beta of 0 a loss would teach nothing, and with less to prefer the rejected side."""
        require_positive(self, beta=self.beta)

    @property
    def needs_candidates(self) -> Candidates:
        """How many candidates it compares."""
        return PAIR

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it needs of the rows; most losses need nothing but their order."""
        return ()

    @abstractmethod
    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]: ...


class Step(NamedTuple):
    """What an objective hands to the loop.

    Attributes:
        loss: what is minimised.
        metrics: one value per pair; NaN where a metric does not apply to that pair.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, Float[Tensor, " b"]]


class Objective(ABC):
    """What one optimiser step minimises. Most methods only set fields of the two pairwise objectives.

    Attributes:
        needs_unconditional: whether batches have to tell what the network sees without a prompt.
        learns_from: "pictures" or "texts"; empty if from either.
    """

    needs_unconditional: ClassVar[bool] = False
    learns_from: ClassVar[str] = ""

    @property
    def needs_candidates(self) -> Candidates:
        """How many candidates each row has to have; none if prompts are enough."""
        return PAIR

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it needs of the rows besides, e.g. what its loss needs."""
        return ()

    @property
    def asks(self) -> tuple[str, ...]:
        """What it asks the reference for, by the names of `diffpo.references`; empty if it needs none."""
        return (SCORES,)

    @property
    def needs_reference(self) -> bool:
        return bool(self.asks)

    @property
    def reference_inputs(self) -> str | None:
        """What, besides batch and draws, decides what the reference is asked; None if training changes it, or if the
        answers are more than one number per candidate: then they cannot be remembered."""
        return None

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
