"""Judges of letters and numbers, whose verdicts are known, and pairs of one prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from diffpo.core.draws import Draws
from diffpo.evaluation.scorer import Scorer
from diffpo.rounds.roles import Judge


class Table(Judge):
    """P(first wins) of single letters, from a matrix; letters count from a."""

    def __init__(self, wins: Sequence[Sequence[float]]):
        self.table = torch.tensor(wins, dtype=torch.float64)
        self.asked = 0

    @property
    def identity(self):
        return {"judge": "table"}

    def __call__(self, prompts: Sequence, first: Sequence, second: Sequence):
        self.asked += len(prompts)
        rows = [(ord(x) - 97, ord(y) - 97) for x, y in zip(first, second, strict=True)]
        return torch.stack([self.table[x, y] for x, y in rows])


@dataclass(frozen=True)
class Number(Scorer):
    """A text is its own score."""

    name, model_id, version = "number", "none", "1"  # pyright: ignore[reportAssignmentType]

    def __call__(self, prompts, candidates):
        return torch.tensor([float(text) for text in candidates])


def draws(b: int, seed: int = 0) -> Draws:
    return Draws(seed, (0,) * b, tuple(range(b)))


def paired(pairing, judge, *candidates):
    """Pairs of one prompt, each candidate a text."""
    sides = [[text] for text in candidates]
    return pairing(["p"], sides, judge, judge.scores(["p"], sides), draws(1))


def bradley_terry(k: int) -> Table:
    """a beats b beats c ..., each by a utility of one."""
    utility = -torch.arange(k, dtype=torch.float64)
    return Table(torch.sigmoid(utility[:, None] - utility).tolist())
