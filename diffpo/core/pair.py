"""A pair as losses see it: log-likelihoods of its candidates, labels, and the loss that they give."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core.moving import Moving
from diffpo.core.needs import PAIR, Candidates, Need
from diffpo.core.refusal import Refusal, require_positive


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

    @property
    def moving(self) -> tuple[Moving, ...]:
        """Its parts that follow training; most losses have none."""
        return ()

    @abstractmethod
    def __call__(self, pair: PairLogps, label: PairLabels) -> Float[Tensor, " b"]: ...
