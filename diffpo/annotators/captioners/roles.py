"""Who says what a picture shows, and who says a text in other words: the roles behind dual captions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from PIL import Image

from diffpo.core.refusal import Refusal

SUMMARY = "captions.json"  # beside data that scripts/caption_pairs.py wrote


class Strength(Enum):
    """How far a perturbed text goes from the original (arXiv:2502.06023); the value is an index of settings."""

    weak = 0
    medium = 1
    strong = 2


class Strategy(Enum):
    """Where the two captions of a pair come from (arXiv:2502.06023, DCPO-c, -p and -h).

    caption: both pictures are captioned. perturb: the chosen side keeps its prompt, the rejected side's is perturbed.
    hybrid: both are captioned, the rejected side's caption is perturbed. hybrid_of_winner (the paper's ablation): the
    chosen side's caption serves both, perturbed for the rejected side.

    Attributes:
        captioned: sides whose pictures are captioned.
        perturbed: the side whose text, perturbed, becomes that of the rejected side; None if none is.
    """

    caption = ((0, 1), None)
    perturb = ((), 1)
    hybrid = ((0, 1), 1)
    hybrid_of_winner = ((0,), 0)

    def __init__(self, captioned: tuple[int, ...], perturbed: int | None):
        self.captioned = captioned
        self.perturbed = perturbed


class Interrupted(Refusal):
    """Whoever answers is gone for now; running the same command later goes on where it stopped.

    Args:
        said: what was answered before, by its index.
    """

    def __init__(self, message: str, said: Mapping[int, Any]):
        super().__init__(message)
        self.said = said


class Speaker(ABC):
    """What captioners, perturbers and judges for a person have in common."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What the answers depend on; those of different identities are never mixed in one folder."""

    def check(self) -> None:
        """Raise a Refusal if this cannot be used, before hours of work; weights need not be loaded for that."""

    def spoken(self, text: str) -> str:
        """A user's text without what would steer the model otherwise than by its words; most models have no such."""
        return text

    def rest(self) -> None:
        """Give the memory of a network back, if there is one; it is loaded again when it is needed again."""


class Captioner(Speaker):
    """Says in words what a picture shows."""

    @abstractmethod
    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """One caption for each RGB picture, raw as it came; empty if there is nothing to say.

        Args:
            prompts: what each picture was made for.
            seeds: of each caption's draws. The same seed says the same again, whatever else is in the batch.

        Raises:
            Interrupted: if an endpoint does not answer.
        """


class Perturber(Speaker):
    """Says a text in other words."""

    @abstractmethod
    def __call__(self, texts: Sequence[str], strength: Strength, seeds: Sequence[int]) -> list[str]:
        """One other text for each, raw as it came; empty if there is nothing to say.

        Args:
            seeds: of each text's draws. The same seed says the same again, whatever else is in the batch.

        Raises:
            Interrupted: if an endpoint does not answer.
        """


def clean_text(raw: str | None) -> str | None:
    """A text on one line, with single spaces; None if nothing is left."""
    return " ".join(raw.split()) or None if raw else None
