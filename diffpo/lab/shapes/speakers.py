"""An exact captioner for the tiny world, and a perturber that knows what a caption states."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from diffpo.annotators.captioners.roles import Captioner, Perturber, Strength
from diffpo.lab.shapes.captions import TRAINING_FAMILIES, VOCABULARY, read_caption
from diffpo.lab.shapes.oracle import measure
from diffpo.lab.shapes.scenes import Attributes


def phrased(attributes: Attributes, rng: np.random.Generator) -> str:
    """In the words of one of the families that the base was trained on."""
    return TRAINING_FAMILIES[rng.integers(len(TRAINING_FAMILIES))](attributes)


@dataclass(frozen=True)
class OracleCaptioner(Captioner):
    """States what the oracle measures: color, shape, background and position, and the size where it has a name.

    Says nothing of a picture without one clean object. Which family of paraphrases it speaks in depends on the seed;
    the family of the evaluation prompts is never among them.
    """

    @property
    def identity(self) -> dict[str, Any]:
        return {"captioner": str(self)}

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        return [self.caption(picture, seed) for picture, seed in zip(pictures, seeds, strict=True)]

    def caption(self, picture: Image.Image, seed: int) -> str:
        measured = measure(picture)
        return phrased(measured.seen, np.random.default_rng(seed)) if measured.clean else ""


@dataclass(frozen=True)
class Misstate(Perturber):
    """Says a caption in another way: weak states the same, medium one attribute wrongly, strong half of them."""

    @property
    def identity(self) -> dict[str, Any]:
        return {"perturber": str(self)}

    def __call__(self, texts: Sequence[str], strength: Strength, seeds: Sequence[int]) -> list[str]:
        return [self.perturbed(text, strength, seed) for text, seed in zip(texts, seeds, strict=True)]

    def perturbed(self, text: str, strength: Strength, seed: int) -> str:
        rng, attributes = np.random.default_rng(seed), read_caption(text)
        stated = attributes.stated()
        count = {Strength.weak: 0, Strength.medium: 1, Strength.strong: -(-len(stated) // 2)}[strength]
        wrong = {name: another(name, stated[name], rng) for name in rng.permutation(list(stated))[:count]}
        return phrased(replace(attributes, **wrong), rng)


def another(name: str, value: str, rng: np.random.Generator) -> str:
    """Another value of an attribute."""
    return str(rng.choice([other for other in VOCABULARY[name] if other != value]))
