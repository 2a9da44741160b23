"""Which of a prompt's candidates become pairs, and what a judge has to be asked for it.

Equal candidates tie without a question, and are no pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal, require_at_least, require_positive
from diffpo.rounds.contents import name_content
from diffpo.rounds.roles import Judge, Pair, Pairing, require_matrix, require_probabilities

Question = tuple[int, int, int]  # row, first and second candidate
Candidates = Sequence[Sequence[Any]]
Scores = Float[Tensor, "k b"] | None
NEARLY = 1e-6  # how far from 0 and 1 a probability is taken to be for its logit


@dataclass(frozen=True)
class BestWorst(Pairing):
    """The best candidate against the worst, by scores if the judge has them, else by mean win rates.

    Mean win rates over the other candidates are the rewards of SPO (arXiv:2401.04056). By scores the judge is asked
    one question a prompt, by win rates k (k - 1) / 2; these are then the pair's scores. The chosen side is the one
    that is more likely to win; in a cycle it may be the one that wins less on average, and its score is the lower one.

    Args:
        gap: of the two ratings, that it takes more of to make a pair (arXiv:2404.14367); 0 takes all that differ.

    Raises:
        Refusal: if `gap` is negative.
    """

    gap: float = 0.0

    def __post_init__(self):
        require_at_least(0, gap=self.gap)

    def __call__(
        self, prompts: Sequence[Any], candidates: Candidates, judge: Judge, scores: Scores, draws: Draws
    ) -> list[Pair]:
        if scores is None:
            wins = ask_wins(judge, prompts, candidates)
            rated = mean_wins(wins)
        else:
            wins, rated = None, scores
        best, worst = rated.argmax(0).tolist(), (len(candidates) - 1 - rated.flip(0).argmin(0)).tolist()
        sides = enumerate(zip(best, worst, strict=True))
        asked = [(row, i, j) for row, (i, j) in sides if rated[i, row] - rated[j, row] > self.gap]
        if wins is None:
            said = ask_about(judge, prompts, candidates, asked)
        else:
            said = [float(wins[i, j, row]) for row, i, j in asked]
        return [order_pair(question, prob, rated) for question, prob in zip(asked, said, strict=True)]


@dataclass(frozen=True)
class AllPairs(Pairing):
    """Each two candidates of a prompt that do not tie: k (k - 1) / 2 questions.

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
        self, prompts: Sequence[Any], candidates: Candidates, judge: Judge, scores: Scores, draws: Draws
    ) -> list[Pair]:
        wins = ask_wins(judge, prompts, candidates)
        asked = [(row, i, j) for row in range(len(prompts)) for i, j in combinations(range(len(candidates)), 2)]
        pairs = [
            order_pair(question, float(wins[question[1], question[2], question[0]]), scores) for question in asked
        ]
        return [pair for pair in pairs if 2 * pair.prob - 1 > self.gap]


@dataclass(frozen=True)
class Tournament(Pairing):
    """Knock-out: who wins all matches against who loses all of them (INPO, arXiv:2407.00617).

    The losers of the first matches play on for the last place. Of 8 candidates that are 4 + 3 + 3 matches and a final
    one between the two: 11 questions. In a tie the first goes on, as does who has no opponent. The pair is kept if the
    winner beats the loser in the final match.
    """

    def __call__(
        self, prompts: Sequence[Any], candidates: Candidates, judge: Judge, scores: Scores, draws: Draws
    ) -> list[Pair]:
        upper, lower = play(judge, prompts, candidates, [list(range(len(candidates))) for _ in prompts], spare=0)
        while any(len(left) > 1 for left in upper):
            upper, _ = play(judge, prompts, candidates, upper, spare=0)
        while any(len(left) > 1 for left in lower):
            _, lower = play(judge, prompts, candidates, lower, spare=1)
        asked = [(row, winner, loser) for row, ([winner], [loser]) in enumerate(zip(upper, lower, strict=True))]
        said = ask_about(judge, prompts, candidates, asked)
        return [order_pair(final, prob, scores) for final, prob in zip(asked, said, strict=True) if prob > 0.5]


@dataclass(frozen=True)
class FirstRound(Pairing):
    """The first matches of a tournament alone: candidates two by two as they come, k / 2 questions (RSO)."""

    def __call__(
        self, prompts: Sequence[Any], candidates: Candidates, judge: Judge, scores: Scores, draws: Draws
    ) -> list[Pair]:
        asked = [(row, i, i + 1) for row in range(len(prompts)) for i in range(0, len(candidates) - 1, 2)]
        said = ask_about(judge, prompts, candidates, asked)
        return [order_pair(match, prob, scores) for match, prob in zip(asked, said, strict=True) if prob != 0.5]


@dataclass(frozen=True)
class AgainstOpponent(Pairing):
    """The first two candidates, each scored by P(it beats the last one) (online IPO, EGPO, arXiv:2503.08942).

    For `diffpo.losses.ScoreMargin`: P(chosen wins) says only who scores higher, and two that score alike are a pair
    too, as they teach that their likelihoods should rise alike. Two questions.
    """

    def require_suits(self, k: int) -> None:
        if k != 3:
            raise Refusal(f"AgainstOpponent takes 3 candidates, two and their opponent, there are {k}; sample 3.")

    def __call__(
        self, prompts: Sequence[Any], candidates: Candidates, judge: Judge, scores: Scores, draws: Draws
    ) -> list[Pair]:
        rows = [row for row in range(len(prompts)) if not are_equal(candidates, row, 0, 1)]
        said = torch.tensor(ask_about(judge, prompts, candidates, [(row, i, 2) for i in (0, 1) for row in rows]))
        rated = torch.zeros(2, len(prompts), dtype=torch.float64)
        rated[:, rows] = said.double().reshape(2, len(rows))
        sure = (rated[0] - rated[1]).sign() / 2 + 0.5
        return [order_pair((row, 0, 1), float(sure[row]), rated) for row in rows]


@dataclass(frozen=True)
class Rejection(Pairing):
    """Candidates as the optimal policy would give them, by rejection sampling (RSO, arXiv:2309.06657), before pairing.

    In each sweep over those that are left, in random order, one with reward r is accepted with probability
    exp((r - max r) / beta). Rewards are the scores of the judge, or without them logit P(candidate beats the first
    one): k - 1 questions.

    Args:
        pairing: of those that are accepted, in the order in which they are.
        n: how many; all of them if there are no more.
        beta: large ones accept whoever comes, small ones the best.

    Raises:
        Refusal: if `n` is below 2, or `beta` not positive.
    """

    pairing: Pairing = field(default_factory=FirstRound)
    n: int = 8
    beta: float = 0.5

    def __post_init__(self):
        require_at_least(2, n=self.n)
        require_positive(self, beta=self.beta)

    def require_suits(self, k: int) -> None:
        self.pairing.require_suits(min(self.n, k))

    def __call__(
        self, prompts: Sequence[Any], candidates: Candidates, judge: Judge, scores: Scores, draws: Draws
    ) -> list[Pair]:
        rewards = ask_rewards(judge, prompts, candidates) if scores is None else scores
        kept = accept_candidates(rewards, min(self.n, len(candidates)), self.beta, draws)
        of_row = list(zip(*candidates, strict=True))
        some = list(zip(*([of_row[row][i] for i in chosen] for row, chosen in enumerate(kept)), strict=True))
        known = None if scores is None else torch.stack([scores[i, row] for row, i in enumerate(kept)], dim=1)
        pairs = self.pairing(prompts, some, judge, known, draws)
        return [
            pair._replace(chosen=kept[pair.row][pair.chosen], rejected=kept[pair.row][pair.rejected]) for pair in pairs
        ]


@dataclass(frozen=True)
class WithCalibration(Pairing):
    """Pairs of all candidates but the last, which goes with each pair as its calibration sample (VPO).

    It is neither judged nor compared.

    Args:
        pairing: of the others.
    """

    pairing: Pairing = field(default_factory=BestWorst)

    def require_suits(self, k: int) -> None:
        self.pairing.require_suits(k - 1)

    def __call__(
        self, prompts: Sequence[Any], candidates: Candidates, judge: Judge, scores: Scores, draws: Draws
    ) -> list[Pair]:
        last = len(candidates) - 1
        pairs = self.pairing(prompts, candidates[:last], judge, None if scores is None else scores[:last], draws)
        return [pair._replace(calibration=last) for pair in pairs]


def accept_candidates(rewards: Float[Tensor, "k b"], n: int, beta: float, draws: Draws) -> list[list[int]]:
    """n candidates of each prompt by rejection sampling, in the order in which they are accepted.

    A draw belongs to a candidate's rank among the rewards, so that the order of candidates does not matter.
    """
    k, b = rewards.shape
    ranked = rewards.double().argsort(dim=0, descending=True, stable=True)  # candidate by rank
    ordered = rewards.double().gather(0, ranked).T
    kept = [[] for _ in range(b)]
    left = torch.ones(b, k, dtype=torch.bool)
    for sweep in range(n):  # each one accepts the best that is left, at least
        coin, order = torch.special.ndtr(draws.normal(f"rejection/{sweep}", 2, k).cpu().double()).unbind(1)
        best = ordered.masked_fill(~left, -torch.inf).max(1, keepdim=True).values
        accepted = left & (coin < torch.exp((ordered - best) / beta)) | left & (ordered == best)
        for row in range(b):
            come = sorted(torch.nonzero(accepted[row]).flatten().tolist(), key=order[row].tolist().__getitem__)
            kept[row] += come[: n - len(kept[row])]
        left &= ~accepted
        if all(len(some) == n for some in kept):
            break
    return [ranked[some, row].tolist() for row, some in enumerate(kept)]


def ask_rewards(judge: Judge, prompts: Sequence[Any], candidates: Candidates) -> Float[Tensor, "k b"]:
    """logit P(candidate beats the first one); 0 for the first one."""
    k, b = len(candidates), len(prompts)
    said = ask_about(judge, prompts, candidates, [(row, i, 0) for i in range(k) for row in range(b)])
    return torch.logit(torch.tensor(said, dtype=torch.float64).reshape(k, b), eps=NEARLY)


def play(
    judge: Judge, prompts: Sequence[Any], candidates: Candidates, left: Sequence[Sequence[int]], spare: int
) -> tuple[list[list[int]], list[list[int]]]:
    """One round of matches for each prompt between neighbours of those that are left: who wins, and who loses.

    Args:
        spare: 0 if who has no opponent counts among the winners, 1 among the losers.
    """
    asked = [(row, some[i], some[i + 1]) for row, some in enumerate(left) for i in range(0, len(some) - 1, 2)]
    said = ask_about(judge, prompts, candidates, asked)
    sides = [[] for _ in left], [[] for _ in left]
    for (row, first, second), prob in zip(asked, said, strict=True):
        winner, loser = (first, second) if prob >= 0.5 else (second, first)
        sides[0][row].append(winner)
        sides[1][row].append(loser)
    for row, some in enumerate(left):
        if len(some) % 2:
            sides[spare][row].append(some[-1])
    return sides


def ask_about(judge: Judge, prompts: Sequence[Any], candidates: Candidates, asked: Sequence[Question]) -> list[float]:
    """P(first wins) of some questions, all in one call; equal candidates tie and are not asked about."""
    said = [0.5] * len(asked)
    open_ones = [n for n, question in enumerate(asked) if not are_equal(candidates, *question)]
    if open_ones:
        sides = [(prompts[row], candidates[i][row], candidates[j][row]) for row, i, j in (asked[n] for n in open_ones)]
        found = require_probabilities(judge(*map(list, zip(*sides, strict=True))), judge).tolist()
        for n, prob in zip(open_ones, found, strict=True):
            said[n] = prob
    return said


def ask_wins(judge: Judge, prompts: Sequence[Any], candidates: Candidates) -> Float[Tensor, "k k b"]:
    """The whole matrix of a judge, in which equal candidates tie."""
    wins = require_matrix(judge.wins(prompts, candidates), judge).double()
    for row in range(len(prompts)):
        for i, j in combinations(range(len(candidates)), 2):
            if are_equal(candidates, row, i, j):
                wins[i, j, row] = wins[j, i, row] = 0.5
    return wins


def mean_wins(wins: Float[Tensor, "k k b"]) -> Float[Tensor, "k b"]:
    """Of each candidate over the others of its prompt (arXiv:2401.04056); they add up to k / 2."""
    return (wins.sum(1) - 0.5) / (len(wins) - 1)


def are_equal(candidates: Candidates, row: int, first: int, second: int) -> bool:
    return first == second or name_content(candidates[first][row]) == name_content(candidates[second][row])


def order_pair(question: Question, prob: float, scores: Float[Tensor, "k b"] | None) -> Pair:
    """A pair whose chosen side is the one that is more likely to win."""
    row, first, second = question
    chosen, rejected = (first, second) if prob >= 0.5 else (second, first)
    score = (0.0, 0.0) if scores is None else (float(scores[chosen, row]), float(scores[rejected, row]))
    return Pair(row, chosen, rejected, max(prob, 1 - prob), score)
