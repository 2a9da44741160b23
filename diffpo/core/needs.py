"""What an objective needs of the rows that it is given: declared by it, checked before the first step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Candidates:
    """How many candidates a row may have.

    Attributes:
        least, most: both included; None is no limit.
        remedy: what gives a row so many.
    """

    least: int
    most: int | None = None
    remedy: str = "choose another objective, or change data.source or data.rows"

    def allow(self, k: int) -> bool:
        return self.least <= k and (self.most is None or k <= self.most)

    def __str__(self) -> str:
        if self.most is None:
            return f"{self.least} or more"
        return str(self.least) if self.least == self.most else f"{self.least} to {self.most}"


PAIR = Candidates(2, 2)


@runtime_checkable
class Row(Protocol):
    """What of a row of data needs look at."""

    @property
    def prompts(self) -> tuple[str | None, ...]: ...

    @property
    def prob(self) -> float: ...

    @property
    def scores(self) -> tuple[float, ...]: ...


@dataclass(frozen=True)
class Need:
    """Something that rows have to tell.

    Attributes:
        asker: who needs it.
        what: in words.
        met: whether such rows, from all over the data, tell it.
        remedy: what makes rows tell it.
    """

    asker: str
    what: str
    met: Callable[..., bool]
    remedy: str


def any_uncertain(rows: Sequence[Row]) -> bool:
    return any(0 < row.prob < 1 for row in rows)


def any_scored(rows: Sequence[Row]) -> bool:
    return any(any(row.scores) for row in rows)


def all_within_one(rows: Sequence[Row]) -> bool:
    return all(0 <= score <= 1 for row in rows for score in row.scores)


def any_told_apart(rows: Sequence[Row]) -> bool:
    return any(len(set(row.prompts)) > 1 for row in rows)
