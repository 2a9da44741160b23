"""Perturbers that change words and need no model."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diffpo.annotators.captioners.roles import Perturber, Strength
from diffpo.core.refusal import Refusal


@dataclass(frozen=True)
class Words(Perturber):
    """Changes a share of the words of a text; which ones, and how, is fixed by the seed.

    Args:
        shares: of the words, for weak, medium and strong; rounded up, so that a text with a word that can be changed
            does change.

    Raises:
        Refusal: if there are not three shares between 0 and 1.
    """

    shares: tuple[float, float, float] = (0.1, 0.3, 0.5)

    def __post_init__(self):
        if len(self.shares) != 3 or not all(0 <= share <= 1 for share in self.shares):
            raise Refusal(f"{type(self).__name__} needs three shares in [0, 1], got {self.shares}.")

    @property
    def identity(self) -> dict[str, Any]:
        return {"perturber": str(self)}

    def __call__(self, texts: Sequence[str], strength: Strength, seeds: Sequence[int]) -> list[str]:
        share = self.shares[strength.value]
        return [
            " ".join(self.changed(text.split(), share, np.random.Generator(np.random.Philox(key=seed))))
            for text, seed in zip(texts, seeds, strict=True)
        ]

    @abstractmethod
    def changed(self, words: list[str], share: float, rng: np.random.Generator) -> list[str]:
        """The words of a text, perturbed."""


@dataclass(frozen=True)
class DropWords(Words):
    """Leave words out; one stays in any case."""

    def changed(self, words: list[str], share: float, rng: np.random.Generator) -> list[str]:
        dropped = {int(i) for i in choose_places(range(len(words)), share, rng)[: max(0, len(words) - 1)]}
        return [word for i, word in enumerate(words) if i not in dropped]


@dataclass(frozen=True)
class SwapWords(Words):
    """Let words change places with their right neighbors."""

    def changed(self, words: list[str], share: float, rng: np.random.Generator) -> list[str]:
        swapped = list(words)
        for i in choose_places(range(len(words) - 1), share, rng):
            swapped[i : i + 2] = swapped[i : i + 2][::-1]
        return swapped


@dataclass(frozen=True)
class ReplaceWords(Words):
    """Put another word of the same group in place of a word.

    The text stays true where groups are synonyms, as a weak perturbation has to be. Where they are, say, colors, it
    says something else at every strength: of a picture that shows what the text said, that is false.

    Upper and lower case are not told apart; punctuation around a word stays. A text without a word of the groups stays
    as it is.

    Args:
        groups: words that can stand for one another.

    Raises:
        Refusal: also if a group has fewer than two words, or a word is in two groups.
    """

    groups: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self):
        super().__post_init__()
        words = [word.lower() for group in self.groups for word in group]
        if twice := sorted({word for word in words if words.count(word) > 1}):
            raise Refusal(f"ReplaceWords has {twice[0]!r} more than once in its groups; leave one of them.")
        if not words or any(len(group) < 2 for group in self.groups):
            raise Refusal(f"ReplaceWords needs groups of two words or more, got {self.groups}.")

    @cached_property
    def others(self) -> dict[str, list[str]]:
        """For each word, in lower case, the rest of its group."""
        return {word.lower(): [other for other in group if other != word] for group in self.groups for word in group}

    def changed(self, words: list[str], share: float, rng: np.random.Generator) -> list[str]:
        cores = [strip_punctuation(word) for word in words]
        replaced = list(words)
        for i in choose_places([i for i, core in enumerate(cores) if core.lower() in self.others], share, rng):
            replaced[i] = words[i].replace(cores[i], rng.choice(self.others[cores[i].lower()]))
        return replaced


def strip_punctuation(word: str) -> str:
    """A word without the punctuation around it."""
    return re.sub(r"^\W+|\W+$", "", word)


def choose_places(places: Sequence[int], share: float, rng: np.random.Generator) -> list[int]:
    """A share of the places, rounded up, in any order."""
    count = int(np.ceil(round(share * len(places), 9)))
    return rng.permutation(np.array(places, dtype=int))[:count].tolist()
