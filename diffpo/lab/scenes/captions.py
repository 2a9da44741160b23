"""Captions of the scenes: five families of paraphrases and one never trained on, and a reader of all six."""

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from diffpo.core.refusal import Refusal
from diffpo.lab.scenes.scenes import BACKGROUNDS, HUES, INVERSE, RELATIONS, SHAPES, SIZES, Facts, Objects, random_facts

Family = Callable[[Facts], str]
COUNTED = {"a": 1, "one": 1, "the": 1, "two": 2}


def name_group(group: Objects, one: str = "a") -> str:
    plural = "" if group.count == 1 else "es" if group.shape == "cross" else "s"
    words = (one if group.count == 1 else "two", group.size, group.color, group.shape + plural)
    return " ".join(word for word in words if word)


def tell_groups(groups: tuple[Objects, ...], relation: str | None, one: str = "a", verb: str = "") -> str:
    names = [name_group(group, one) for group in groups]
    return f" {verb}{relation} ".join(names) if relation else " and ".join(names)


def plain(facts: Facts) -> str:
    return tell_groups(facts.groups, facts.relation) + (f", {facts.background} background" if facts.background else "")


def scenery(facts: Facts) -> str:
    """The background first, and relations told from the other end."""
    behind = f"{facts.background} background with " if facts.background else "picture of "
    return behind + tell_groups(facts.groups[::-1], facts.relation and INVERSE[facts.relation])


def listed(facts: Facts) -> str:
    parts = [name_group(group, "one") for group in facts.groups]
    if facts.relation:
        first = replace(facts.groups[0], size=None)
        parts += [f"{name_group(first, 'the')} is {facts.relation} the other"]
    return ", ".join(parts + [f"{facts.background} backdrop"] * bool(facts.background))


def pictured(facts: Facts) -> str:
    place = f" on a {facts.background} canvas" if facts.background else ""
    return f"this shows {tell_groups(facts.groups, facts.relation, 'one')}{place}"


def seen(facts: Facts) -> str:
    """As `plain`, but of the second object first."""
    behind = f"{facts.background} behind: " if facts.background else ""
    return behind + tell_groups(facts.groups[::-1], facts.relation and INVERSE[facts.relation], "the", "seen ")


def reordered(facts: Facts) -> str:
    """Never trained on: known words in a new order."""
    behind = f"with {facts.background} backdrop, " if facts.background else ""
    return behind + tell_groups(facts.groups, facts.relation, "one", "is ")


TRAINING_FAMILIES: tuple[Family, ...] = (plain, scenery, listed, pictured, seen)
EVALUATION_FAMILY: Family = reordered


def noisy_caption(facts: Facts, rng: np.random.Generator) -> str:
    """Of a random family, as captions of the web are: 10 % are empty, 10 % leave a fact out, 5 % state a wrong one."""
    draw = rng.random()
    if draw < 0.1:
        return ""
    if draw < 0.2:
        facts = leave_out(facts, rng)
    elif draw < 0.25:
        facts = misstate(facts, rng)
    return TRAINING_FAMILIES[rng.integers(len(TRAINING_FAMILIES))](facts)


def leave_out(facts: Facts, rng: np.random.Generator) -> Facts:
    """The same without the relation, the background or the second group."""
    open_: list[Facts] = [replace(facts, background=None)]
    if facts.relation:
        open_.append(replace(facts, relation=None))
    if len(facts.groups) > 1:
        open_.append(replace(facts, groups=facts.groups[:1], relation=None))
    return open_[rng.integers(len(open_))]


def misstate(facts: Facts, rng: np.random.Generator) -> Facts:
    """The same with one wrong fact."""
    other = random_facts(rng, "training")
    if facts.relation and rng.random() < 0.4:
        return replace(facts, relation=INVERSE[facts.relation])
    if rng.random() < 0.7:
        wrong = replace(facts.groups[0], color=other.groups[0].color, shape=other.groups[0].shape)
        if wrong.kind not in [group.kind for group in facts.groups]:
            return replace(facts, groups=(wrong, *facts.groups[1:]))
    return replace(facts, background=other.background)


def read_caption(caption: str) -> Facts:
    """What a caption of any family states.

    Raises:
        Refusal: if it names no object of this world.
    """
    text = caption.lower()
    sizes, colors, shapes = ("|".join(names) for names in (SIZES, HUES, SHAPES))
    pattern = rf"\b(?:(two|one|a|the) )?(?:({sizes}) )?({colors}) ({shapes})(?:es|s)?\b"
    named = list(re.finditer(pattern, text))
    if not named:
        raise Refusal(f"{caption!r} is no caption of the scenes; write one like 'a red circle left of a blue square'.")
    groups: dict[tuple[str, str], Objects] = {}
    for found in named:  # the second naming of a kind only points back
        count, size, color, shape = found.groups()
        groups.setdefault((color, shape), Objects(color, shape, COUNTED[count or "a"], size))
    told = re.search("|".join(RELATIONS), text)
    ordered = tuple(groups.values())
    if told and len(ordered) == 2:
        subject = [found for found in named if found.start() < told.start()][-1].group(3, 4)
        ordered = tuple(sorted(ordered, key=lambda group: group.kind != subject))
    behind = re.search(rf"\b({'|'.join(BACKGROUNDS)})\b", text)
    return Facts(ordered, told.group() if told and len(ordered) == 2 else None, behind.group() if behind else None)
