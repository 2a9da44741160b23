"""The people whose preferences the scenes' pairs express: raters who share an aim and differ in taste and care."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from diffpo.lab.scenes.oracle import SeenScene, judge
from diffpo.lab.scenes.scenes import EXTENT, VIVIDNESS, Facts
from diffpo.lab.shapes.oracle import share

RATERS, VOTERS = 20, 5
SPACE = (0.3, 0.7)  # distances of two objects' centres between which a taste for space tells


@dataclass(frozen=True)
class SceneTaste:
    """Weights of what a caption leaves open, each measured in [0, 1]; a fact outweighs all of them together.

    Args:
        vivid: saturated colours.
        spaced: two objects far from each other.
        large: large objects, where no size is stated.
    """

    vivid: float = 0.25
    spaced: float = 0.1
    large: float = 0.15

    def style(self, seen: SeenScene, asked: Facts) -> float:
        """What this taste sees in a picture beyond its facts, in [0, 0.5] for the common weights."""
        return self.weigh(open_traits(seen, asked))

    def weigh(self, traits: tuple[float, float, float]) -> float:
        return float(np.dot((self.vivid, self.spaced, self.large), traits))

    def utility(self, seen: SeenScene, asked: Facts) -> float:
        """Share of right facts plus style; -1 without clean objects, less than any other picture has."""
        right, traits = look_at(seen, asked)
        return right + self.weigh(traits)


def look_at(seen: SeenScene, asked: Facts) -> tuple[float, tuple[float, float, float]]:
    """What all see alike: the share of right facts, -1 without clean objects, and the open traits."""
    return (share_right(seen, asked), open_traits(seen, asked)) if seen.clean else (-1.0, (0.0, 0.0, 0.0))


def share_right(seen: SeenScene, asked: Facts) -> float:
    """Share of the stated facts that a picture shows."""
    right = [one for values in judge(seen, asked).values() for one in values]
    return sum(right) / len(right)


def open_traits(seen: SeenScene, asked: Facts) -> tuple[float, float, float]:
    """Vividness, spacing and size, each in [0, 1]; one that the caption states or that is not there counts as half."""
    if not seen.things:
        return 0.0, 0.0, 0.0
    sized = {group.kind for group in asked.groups if group.size}
    free = [share(thing.extent, EXTENT) for thing in seen.things if thing.kind not in sized]
    apart = [share(float(np.hypot(a.x - b.x, a.y - b.y)), SPACE) for a, b in combinations(seen.things, 2)]
    vivid = [share(thing.vividness, VIVIDNESS) for thing in seen.things]
    return tuple(float(np.mean(some)) if some else 0.5 for some in (vivid, apart, free))  # type: ignore[return-value]


COMMON = SceneTaste()


@dataclass(frozen=True)
class Rater:
    """One of the people.

    Args:
        temperature: a gap of this size in utility is told apart in about 3 of 4 comparisons.
        tie: threshold below which a difference goes unnoticed (Rao and Kupper, JASA 1967).
    """

    taste: SceneTaste
    temperature: float
    tie: float

    def chances(self, first: float, second: float) -> tuple[float, float]:
        """Probabilities that the first, or the second, of two utilities wins; what is left is a tie."""
        gap = (first - second) / self.temperature
        return float(1 / (1 + np.exp(self.tie - gap))), float(1 / (1 + np.exp(self.tie + gap)))


def gather_raters(seed: int = 0, number: int = RATERS) -> list[Rater]:
    """People whose weights spread around the common ones by a factor of about two, some careful and some not."""
    rng = np.random.default_rng(seed)
    common = np.array([COMMON.vivid, COMMON.spaced, COMMON.large])
    weights = common * np.exp(rng.normal(0, 0.6, size=(number, 3)))
    weights *= np.minimum(1, 0.5 / weights.sum(axis=1, keepdims=True))
    return [
        Rater(SceneTaste(vivid, spaced, large), float(rng.uniform(0.06, 0.2)), float(rng.uniform(0.1, 0.4)))
        for vivid, spaced, large in weights.tolist()
    ]


@dataclass(frozen=True)
class Ballot:
    """What some raters said of two pictures.

    Attributes:
        voters: who they are.
        votes: 1 for the first picture, 0 for the second, 0.5 for a tie, one a voter.
        chance: the expectation of a vote over all raters; no training reads it.
    """

    voters: list[int]
    votes: list[float]
    chance: float

    @property
    def soft(self) -> float:
        """Share of votes for the first picture."""
        return sum(self.votes) / len(self.votes)

    @property
    def majority(self) -> float:
        return 0.5 if self.soft == 0.5 else float(self.soft > 0.5)


def hold_vote(
    raters: list[Rater],
    seen: tuple[SeenScene, SeenScene],
    asked: Facts,
    rng: np.random.Generator,
    voters: int = VOTERS,
) -> Ballot:
    """Votes of `voters` raters, drawn for this pair."""
    looks = [look_at(one, asked) for one in seen]  # once, for there are twenty raters
    chances = [rater.chances(*(right + rater.taste.weigh(traits) for right, traits in looks)) for rater in raters]
    chosen = [int(i) for i in rng.choice(len(raters), size=voters, replace=False)]
    votes = [draw_vote(*chances[i], rng) for i in chosen]
    return Ballot(chosen, votes, float(np.mean([(1 + first - second) / 2 for first, second in chances])))


def draw_vote(first: float, second: float, rng: np.random.Generator) -> float:
    draw = rng.random()
    return 1.0 if draw < first else 0.0 if draw < first + second else 0.5
