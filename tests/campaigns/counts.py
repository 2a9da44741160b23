"""What came of the trials of a campaign, as a table."""

from collections.abc import Mapping
from dataclasses import dataclass, field

OUTCOMES = ("survived", "told", "silent")


@dataclass
class Count:
    """Of the trials of one kind of work.

    Attributes:
        outcomes: of each trial: it "survived" if it ended with what undisturbed work leaves; it is "told" if instead a
            line of a program names cause and remedy; all else is "silent", tracebacks too.
        hits: programs that ended by what happened to them.
        lines: those of them that said in a line of their own why.
        odd: what was wrong with each silent trial.
    """

    outcomes: list[str] = field(default_factory=list)
    hits: int = 0
    lines: int = 0
    odd: list[str] = field(default_factory=list)

    def hit(self, code: int) -> None:
        """A program that was to be disturbed has ended with this exit code."""
        self.hits += code != 0
        self.lines += code > 0

    def add(self, outcome: str, about: str) -> None:
        self.outcomes.append(outcome)
        if outcome != "survived":
            self.odd.append(f"{outcome}: {about}")


def require_none_silent(counts: Mapping[str, Count]) -> None:
    """What a test of a campaign asserts: all that was tried went on to the same end."""
    odd = [f"{name}: {said}" for name, count in counts.items() for said in count.odd]
    assert not odd, "\n".join(odd)
    assert all(count.outcomes for count in counts.values())


def table(title: str, counts: Mapping[str, Count]) -> str:
    """A column for each kind of work; the last row is what must not be."""
    names = list(counts)
    rows = {
        "tried": [len(counts[name].outcomes) for name in names],
        "programs hit": [counts[name].hits for name in names],
        "of them with a line": [counts[name].lines for name in names],
    }
    rows |= {outcome: [counts[name].outcomes.count(outcome) for name in names] for outcome in OUTCOMES}
    head = f"| {title} | {' | '.join(names)} | all |"
    body = [f"| {row} | {' | '.join(map(str, found))} | {sum(found)} |" for row, found in rows.items()]
    return "\n".join([head, "|---" * (len(names) + 2) + "|", *body])
