"""Captions of the tiny world: several families of paraphrases, and a reader that recovers what a caption states."""

import re
from collections.abc import Callable

from diffpo.core.refusal import Refusal
from diffpo.lab.shapes.scenes import BACKGROUNDS, HUES, POSITIONS, SHAPES, SIZES, Attributes

Family = Callable[[Attributes], str]


def phrase(*words: str | None) -> str:
    return " ".join(word for word in words if word)


def plain(a: Attributes) -> str:
    where = a.position and phrase("in the" if a.position == "center" else "on the", a.position)
    return join_phrases(
        phrase("a", a.size, a.color, a.shape or "shape", where), a.background and f"{a.background} background"
    )


def scenery_first(a: Attributes) -> str:
    thing = phrase("a", a.size, a.color, a.shape or "shape", a.position and f"at the {a.position}")
    return phrase(a.background, "background with", thing)


def described(a: Attributes) -> str:
    thing = phrase("picture of a", a.shape or "shape", a.color and f"colored {a.color}")
    place = a.position and f"located {a.position}"
    return join_phrases(thing, a.size and f"{a.size} in size", place, a.background and f"{a.background} behind it")


def listed(a: Attributes) -> str:
    return join_phrases(
        phrase(a.color, a.shape or "shape"), a.size, a.position, a.background and f"{a.background} backdrop"
    )


def on_canvas(a: Attributes) -> str:
    thing = phrase("one", a.size, a.color, a.shape or "shape", a.position and f"placed {a.position}")
    return phrase(a.background and f"on a {a.background} canvas", thing)


def join_phrases(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


TRAINING_FAMILIES: tuple[Family, ...] = (plain, scenery_first, described, listed)
EVALUATION_FAMILY: Family = on_canvas
VOCABULARY = {"color": HUES, "shape": SHAPES, "background": BACKGROUNDS, "position": POSITIONS, "size": SIZES}


def read_caption(caption: str) -> Attributes:
    """What a caption of any family states.

    Raises:
        Refusal: if it states nothing of the tiny world, or one attribute twice.
    """
    words = re.findall(r"[a-z]+", caption.lower())
    found = {name: [word for word in words if word in values] for name, values in VOCABULARY.items()}
    if not any(found.values()) or any(len(values) > 1 for values in found.values()):
        raise Refusal(f"{caption!r} is not a caption of the tiny world; write one like 'a red circle on the left'.")
    return Attributes(**{name: values[0] for name, values in found.items() if values})
