"""What users of the tiny language world ask for: short prompts that leave most of a scene open.

A language model (`assets/tiny-lm`) rewrites them into full captions, which the tiny pipeline (`assets/tiny-sd`) draws:
prompt optimisation in miniature, the task of Sem-DPO (arXiv:2507.20133).
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from diffpo.lab.shapes.captions import Family, join_phrases, phrase
from diffpo.lab.shapes.scenes import BACKGROUNDS, HUES, POSITIONS, SHAPES, SIZES, Attributes

END = ":"  # where the request ends and its rewrite begins


def short(a: Attributes) -> str:
    return phrase("a", a.size, a.color, a.shape or "shape", at(a), a.background and f"on {a.background}")


def vague(a: Attributes) -> str:
    return phrase(
        "something", a.size, a.color, a.shape and f"like a {a.shape}", at(a), a.background and f"on {a.background}"
    )


def keywords(a: Attributes) -> str:
    return join_phrases(a.shape, a.color, a.size, a.position, a.background)


def wish(a: Attributes) -> str:
    wanted = (a.color, a.size, at(a), a.background and f"on {a.background}")
    told = " and ".join(part for part in wanted if part)
    return phrase("i want a", a.shape or "shape", told and f"that is {told}")


def turned(a: Attributes) -> str:
    place = phrase(a.background and f"on {a.background}", at(a))
    return join_phrases(phrase(place, "a", a.shape or "shape"), a.size, a.color)


def at(a: Attributes) -> str | None:
    return a.position and f"at the {a.position}"


TRAINING_REQUESTS: tuple[Family, ...] = (short, vague, keywords, wish)
EVALUATION_REQUEST: Family = turned  # of words that all occur in the others


def prompt(asked: Attributes, family: Family) -> str:
    """What a model is given; what it writes next is the caption."""
    return family(asked) + END


def list_requests() -> list[Attributes]:
    """All requests: color, shape or both, and at most one of background, position and size.

    So each leaves at least two attributes open that the hidden taste has an opinion of.
    """
    nothing: list[dict[str, str]] = [{}]
    others = nothing + [{"background": name} for name in BACKGROUNDS]
    others += [{"position": name} for name in POSITIONS] + [{"size": name} for name in SIZES]
    things = [thing for thing in product((*HUES, None), (*SHAPES, None)) if any(thing)]
    return [Attributes(color=color, shape=shape, **other) for (color, shape), other in product(things, others)]


@dataclass(frozen=True)
class RequestSplit:
    """Requests by what they are for; none is in two parts."""

    training: list[Attributes]
    development: list[Attributes]
    evaluation: list[Attributes]


def split_requests(seed: int = 0, development: int = 64, evaluation: int = 100) -> RequestSplit:
    """Every request in one of three parts."""
    everything = list_requests()
    mixed = [everything[i] for i in np.random.default_rng(seed).permutation(len(everything))]
    held_out = development + evaluation
    return RequestSplit(mixed[held_out:], mixed[:development], mixed[development:held_out])
