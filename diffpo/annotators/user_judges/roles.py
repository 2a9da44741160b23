"""Who says which of two pictures a person would prefer, after a look at the person's choices; and what is made of it.

As PPD (arXiv:2501.06655) judges for persons: a few labeled pairs are shown, then a pair in both orders, and whoever
judges by the place of a picture instead of the picture wins nothing by it.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from diffpo.annotators.captioners.roles import Speaker
from diffpo.annotators.embedders.embedder import Shown
from diffpo.core.refusal import Refusal
from diffpo.evaluation.win_rates import bootstrap_interval, format_report

Choice = Literal[1, 2]


class SupportExample(NamedTuple):
    """A comparison that the person made, as it is shown: `preferred` is where the preferred picture stands."""

    shown: Shown
    preferred: Choice

    @property
    def pictures(self) -> tuple[Image.Image, Image.Image]:
        liked, disliked = self.shown.liked, self.shown.disliked
        return (liked, disliked) if self.preferred == 1 else (disliked, liked)


@dataclass(frozen=True, eq=False)
class UserQuestion:
    """Which of two RGB pictures would this person prefer?

    Attributes:
        user: id of the person; a judge that is no oracle has to go by the support.
        support: what the person chose before; one comparison or more.
        caption: what both pictures were made for.
    """

    user: str
    support: tuple[SupportExample, ...]
    caption: str
    first: Image.Image
    second: Image.Image


class Verdict(NamedTuple):
    """An answer to a question.

    Attributes:
        choice: 1 is the first picture, 2 the second; None if the answer names neither.
        said: the answer as it came, if it came in words.
        retried: how often it was asked for again.
    """

    choice: Choice | None
    said: str = ""
    retried: int = 0


class UserJudge(Speaker):
    """Chooses between two pictures for a person."""

    @abstractmethod
    def __call__(self, questions: Sequence[UserQuestion], seeds: Sequence[int]) -> list[Verdict]:
        """One verdict for each question.

        Args:
            seeds: of each answer's draws. The same seed says the same again, whatever else is in the batch.

        Raises:
            Interrupted: if an endpoint does not answer; it holds the verdicts that came before.
        """


class PairVerdict(NamedTuple):
    """What a judge says of one pair, ours against theirs.

    Attributes:
        straight: with our picture first.
        turned: with our picture second.
    """

    straight: Verdict
    turned: Verdict

    @property
    def outcome(self) -> float:
        """1 if we win in both orders, 0 if they do; all else is a tie, 0.5."""
        said = self.straight.choice, self.turned.choice
        return 1.0 if said == (1, 2) else 0.0 if said == (2, 1) else 0.5

    @property
    def is_contradictory(self) -> bool:
        """Whether the verdict goes with the place, not with the picture."""
        return self.straight.choice is not None and self.straight.choice == self.turned.choice


def summarize_verdicts(heard: Mapping[str, Sequence[PairVerdict | None]]) -> dict[str, Any]:
    """Who wins, over persons and for each.

    Args:
        heard: of each person what was said of each pair; None of a pair with a picture that cannot be read.

    Returns:
        `win_rate`, a mean over persons of each one's mean outcome, with its bootstrap interval over persons (`_low`,
        `_high`); how many `users` that are; what `count_verdicts` says of all pairs; and the same `per_user`.

    Raises:
        Refusal: if no pair could be judged.
    """
    rates = {user: rate for user, said in heard.items() if (rate := rate_person(said)) is not None}
    if not rates:
        pairs = sum(map(len, heard.values()))
        raise Refusal(f"Each of {pairs} pairs, or its support, has a picture that cannot be read; check the pictures.")
    by_user = np.array(list(rates.values()))
    low, high = bootstrap_interval(by_user)
    overall = {"win_rate": float(by_user.mean()), "win_rate_low": low, "win_rate_high": high, "users": len(rates)}
    per_user = {user: {"win_rate": rates.get(user)} | count_verdicts(said) for user, said in heard.items()}
    return overall | count_verdicts([one for said in heard.values() for one in said]) | {"per_user": per_user}


def rate_person(said: Iterable[PairVerdict | None]) -> float | None:
    """A tie counts half; None if nothing could be judged."""
    outcomes = [one.outcome for one in said if one is not None]
    return float(np.mean(outcomes)) if outcomes else None


def count_verdicts(said: Sequence[PairVerdict | None]) -> dict[str, Any]:
    """Pairs that were judged, `unreadable` ones apart: `wins`, `ties`, `losses`; `inconsistent`, the share of them
    whose two verdicts contradict each other; `first`, the share of verdicts for the first place among those that name
    one (0.5 is without bias; both are null if there is nothing to share); answers that are `unparsed`, and those that
    were `retried`."""
    judged = [one for one in said if one is not None]
    verdicts = [verdict for one in judged for verdict in one]
    choices = [verdict.choice for verdict in verdicts if verdict.choice is not None]
    outcomes = [one.outcome for one in judged]
    return {
        "pairs": len(judged),
        "wins": outcomes.count(1.0),
        "ties": outcomes.count(0.5),
        "losses": outcomes.count(0.0),
        "inconsistent": float(np.mean([one.is_contradictory for one in judged])) if judged else None,
        "first": choices.count(1) / len(choices) if choices else None,
        "unparsed": len(verdicts) - len(choices),
        "retried": sum(verdict.retried > 0 for verdict in verdicts),
        "unreadable": len(said) - len(judged),
    }


def format_summaries(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """For the terminal: a line for each of some summaries, by what they are of."""
    width = max(map(len, sections)) + 2
    names = ("pairs", "wins", "ties", "losses", "inconsistent", "first", "unparsed", "unreadable")
    lines = [f"{'':<{width}}{'users':>7}{'win rate':>24}" + "".join(f"{name:>14}" for name in names)]
    for title, found in sections.items():
        cells = "".join(f"{format_share(found[name]):>14}" for name in names)
        lines.append(f"{title:<{width}}{found['users']:>7}{format_report(found):>24}{cells}")
    return "\n".join(lines)


def format_share(value: float | int | None) -> str:
    """Shares are the only numbers that are no counts."""
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.1%}"
