"""Which of a prompt's candidates become pairs, best and worst or all of them, and what a judge has to be asked for it.

What the judge calls a tie, P = 1/2, makes no pair, and neither do two equal candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal, require_at_least, require_positive
from diffpo.rounds.contents import key_of
from diffpo.rounds.roles import Judge, Pair, Pairing, require_matrix, require_probabilities

Question = tuple[int, int, int]  # row, first and second candidate
Candidates = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class BestWorst(Pairing):
    """The best candidate against the worst one, by scores if the judge has them, else by mean win rate (SPO).

    By scores the judge is asked one question a prompt; by win rates all k (k - 1) / 2.

    Args:
        gap: of scores, or of mean win rates over the other candidates, that a pair has to exceed
            (arXiv:2404.14367); 0 takes all that differ.

    Raises:
        Refusal: if `gap` is negative.
    """

    gap: float = 0.0

    def __post_init__(self):
        require_at_least(0, gap=self.gap)

    def __call__(
        self,
        prompts: Sequence[Any],
        candidates: Candidates,
        judge: Judge,
        scores: Float[Tensor, "k b"] | None,
        draws: Draws,
    ) -> list[Pair]:
        k = len(candidates)
        wins = ask_wins(judge, prompts, candidates) if scores is None else None
        rated = scores if wins is None else mean_wins(wins)
        assert rated is not None
        best, worst = rated.argmax(0).tolist(), (k - 1 - rated.flip(0).argmin(0)).tolist()
        far = [row for row in range(len(prompts)) if rated[best[row], row] - rated[worst[row], row] > self.gap]
        asked = [(row, best[row], worst[row]) for row in far]
        if wins is None:
            said = ask(judge, prompts, candidates, asked)
        else:
            said = [wins[first, second, row].item() for row, first, second in asked]
        return keep_decided(candidates, asked, said, scores)


@dataclass(frozen=True)
class AllPairs(Pairing):
    """Each two candidates of a prompt, whichever the judge prefers as the chosen one: k (k - 1) / 2 questions.

    Args:
        gap: that 2 P - 1 has to exceed; 0 takes all but ties.

    Raises:
        Refusal: if `gap` is not in [0, 1).
    """

    gap: float = 0.0

    def __post_init__(self):
        if not 0 <= self.gap < 1:
            raise Refusal(f"AllPairs needs a gap in [0, 1), got {self.gap}; 0 takes all but ties.")

    def __call__(
        self,
        prompts: Sequence[Any],
        candidates: Candidates,
        judge: Judge,
        scores: Float[Tensor, "k b"] | None,
        draws: Draws,
    ) -> list[Pair]:
        wins = ask_wins(judge, prompts, candidates)
        asked = [(row, i, j) for row in range(len(prompts)) for i, j in combinations(range(len(candidates)), 2)]
        said = [wins[i, j, row].item() for row, i, j in asked]
        pairs = keep_decided(candidates, asked, said, scores)
        return [pair for pair in pairs if 2 * pair.prob - 1 > self.gap]


@dataclass(frozen=True)
class Tournament(Pairing):
    """Knock-out: who wins all of its matches against who loses all of them (INPO, arXiv:2407.00617).

    The losers of the first matches play for the last place; of 8 candidates that are 4 + 3 + 3 matches and the final
    one between the two, 11 questions. A tie goes to the first; who has no opponent goes on. The pair is kept if the
    winner beats the loser in the final.
    """

    def __call__(
        self,
        prompts: Sequence[Any],
        candidates: Candidates,
        judge: Judge,
        scores: Float[Tensor, "k b"] | None,
        draws: Draws,
    ) -> list[Pair]:
        field = [list(range(len(candidates))) for _ in prompts]
        winners, losers, bye = play(judge, prompts, candidates, field)
        last = [few or spare for few, spare in zip(losers, bye, strict=True)]
        while max(map(len, winners), default=0) > 1:
            winners, _, bye = play(judge, prompts, candidates, winners)
            winners = [some + spare for some, spare in zip(winners, bye, strict=True)]
        while max(map(len, last), default=0) > 1:
            _, last, bye = play(judge, prompts, candidates, last)
            last = [some + spare for some, spare in zip(last, bye, strict=True)]
        asked = [(row, first, second) for row, ([first], [second]) in enumerate(zip(winners, last, strict=True))]
        said = ask(judge, prompts, candidates, asked)
        won = [(question, prob) for question, prob in zip(asked, said, strict=True) if prob > 0.5]
        return keep_decided(candidates, [question for question, _ in won], [prob for _, prob in won], scores)
