"""What one number a candidate gets for its prompt: the role of every scorer."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from diffpo.core.refusal import Refusal


class Scorer(ABC):
    """Rates candidates (pictures, texts) for their prompts; higher is better.

    Attributes:
        raw: whether the numbers lack the scale with which they are usually published.
    """

    raw: bool = False

    @property
    @abstractmethod
    def name(self) -> str:
        """What the numbers are called in tables and files; scores of different names are never compared."""

    @property
    @abstractmethod
    def model_id(self) -> str:
        """Where the weights come from: hub id (with the revision, if one was named), or path."""

    @property
    @abstractmethod
    def version(self) -> str:
        """What else the numbers depend on: formula, preprocessing, precision."""

    @abstractmethod
    def __call__(self, prompts: Sequence[str], candidates: Sequence[Any]) -> Float[Tensor, " n"]:
        """One score per prompt and candidate, in fp32 or better, on the CPU.

        Raises:
            Refusal: if there are not as many prompts as candidates.
        """

    def aspects(self, prompts: Sequence[str], candidates: Sequence[Any]) -> dict[str, Float[Tensor, " n"]]:
        """Further numbers by name that explain the score; most scorers have none."""
        return {}

    def check(self, prompts: Sequence[str]) -> None:
        """Raise a Refusal if these prompts cannot be judged or the weights not loaded: before hours of work."""

    def count_cut(self, prompts: Sequence[str]) -> int:
        """How many of these prompts are longer than it reads: what they say further on has no part in their scores."""
        return 0

    def on(self, device: str) -> "Scorer":
        """The same scorer with its network, if it has one, on that device; nothing is loaded yet."""
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What stands beside every file of scores; scores of different identities are never mixed."""
        return {"scorer": self.name, "model_id": self.model_id, "version": self.version, "raw": self.raw}


class TextScorer(Scorer):
    """Rates answers in words for their prompts; each of both is a text, or a list of messages.

    NaN says that an answer could not be rated. One at an endpoint raises `Interrupted`, which holds the numbers that
    it had by then.
    """

    def count_long(self, prompts: Sequence[Any], candidates: Sequence[Any]) -> int:
        """How many answers are, with their prompts, longer than it reads: the rest has no part in their scores."""
        return 0


def require_as_many(prompts: Sequence[Any], candidates: Sequence[Any]) -> None:
    if len(prompts) != len(candidates):
        raise Refusal(
            f"There are {len(prompts)} prompts and {len(candidates)} candidates; a scorer takes one prompt for each."
        )
