"""A captioner of the scenes that says what the oracle sees, and one who says a caption in other words."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from diffpo.annotators.captioners.roles import Captioner, Perturber, Strength
from diffpo.lab.scenes.captions import TRAINING_FAMILIES, Family, misstate, read_caption
from diffpo.lab.scenes.oracle import SeenScene, measure
from diffpo.lab.scenes.scenes import RELATIONS, Facts, Objects, Thing, holds

NAMED = 2  # captions count no further


def choose_family(rng: np.random.Generator) -> Family:
    """One that the bases were trained on."""
    return TRAINING_FAMILIES[rng.integers(len(TRAINING_FAMILIES))]


def state_facts(seen: SeenScene) -> Facts | None:
    """What can be said of a picture, without sizes: None if nothing was recognised, or more of a kind than is counted.

    Objects that are drawn uncleanly are left out, as a person does who cannot make them out.
    """
    counts = Counter(thing.kind for thing in seen.things)
    if not counts or max(counts.values()) > NAMED:
        return None
    groups = tuple(Objects(color, shape, count) for (color, shape), count in counts.items())
    return Facts(groups, find_relation(seen.things) if len(seen.things) == len(groups) == 2 else None, seen.background)


def find_relation(things: Sequence[Thing]) -> str | None:
    """How the first of two objects stands to the second, if that is as clear as in the scenes of the training."""
    return next((relation for relation in RELATIONS if holds(relation, things[0], things[1], 1.5)), None)


@dataclass(frozen=True)
class SceneCaptioner(Captioner):
    """States the objects, how they stand to each other and the background, as far as the oracle recognises them.

    Says nothing of a picture in which it recognises no object. Which family of paraphrases it speaks in depends on the
    seed; the family of the evaluation prompts is never among them.
    """

    @property
    def identity(self) -> dict[str, Any]:
        return {"captioner": str(self)}

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        stated = [state_facts(measure(picture)) for picture in pictures]
        families = [choose_family(np.random.default_rng(seed)) for seed in seeds]
        return [family(facts) if facts else "" for family, facts in zip(families, stated, strict=True)]


@dataclass(frozen=True)
class SceneParaphraser(Perturber):
    """Says a caption in the words of another family: weak states the same, medium one wrong fact, strong two."""

    @property
    def identity(self) -> dict[str, Any]:
        return {"perturber": str(self)}

    def __call__(self, texts: Sequence[str], strength: Strength, seeds: Sequence[int]) -> list[str]:
        return [self.rephrase(text, strength, seed) for text, seed in zip(texts, seeds, strict=True)]

    def rephrase(self, text: str, strength: Strength, seed: int) -> str:
        rng, facts = np.random.default_rng(seed), read_caption(text)
        for _ in range(strength.value):
            facts = misstate(facts, rng)
        said = [family(facts) for family in TRAINING_FAMILIES]
        others = [words for words in said if words != text]
        return str(others[rng.integers(len(others))])
