"""Who answers, who compares answers, and who makes pairs of them: the roles of a round, which know neither texts nor
pictures.

Candidates are always given as k lists of b: the first list holds the first candidate of each of b prompts.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal

CLOSE = 1e-4  # how far W + W^T may be from 1


@dataclass(frozen=True)
class Sampled:
    """One candidate, as a sampler gives it.

    Attributes:
        content: a text, or a picture, or where it lies.
        about: what is recorded beside it, by the names of `candidates.parquet`, e.g. {"tokens": 31, "ended": True}.
    """

    content: Any
    about: dict[str, Any] = field(default_factory=dict)


class Sampler(ABC):
    """Lets a model answer prompts.

    Attributes:
        makes: what it answers with, as objectives say what they learn from.
        together: prompts whose candidates are kept at a time, which is what a kill costs; None leaves it to the round.
    """

    makes: str = "texts"
    together: int | None = None

    @abstractmethod
    def __call__(self, model: Any, prompts: Sequence[Any], k: int, draws: Draws) -> list[list[Sampled]]:
        """k candidates for each of b prompts, as k lists of b.

        Args:
            model: what the track has loaded, e.g. `diffpo.text.LoadedCausalLM`; of an endpoint None.
            draws: of the b rows, with the round as their epoch. The number of a candidate belongs into the name of
                each draw, so that a candidate depends on (seed, round, row, candidate) and on nothing else: not on the
                batch, on k, or on what was sampled before.

        Raises:
            Interrupted: if an endpoint does not answer; `said` holds what was answered before, that of candidate c of
                prompt i under c b + i.
        """

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What candidates depend on besides model, prompts and draws; those of different identities never mix."""


class Judge(ABC):
    """Says which of two candidates is better."""

    @abstractmethod
    def __call__(self, prompts: Sequence[Any], first: Sequence[Any], second: Sequence[Any]) -> Float[Tensor, " n"]:
        """P(first wins) of each of n questions, in fp32 or better, on the CPU.

        Raises:
            Interrupted: if an endpoint does not answer.
        """

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What its verdicts depend on; those of different identities never mix."""

    def scores(self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]]) -> Float[Tensor, "k b"] | None:
        """Numbers that it judges by, if it does so: then best and worst need no questions. None of all others."""
        return None

    def wins(self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]]) -> Float[Tensor, "k k b"]:
        """W[i, j] = P(candidate i beats candidate j): W + W^T = 1 and the diagonal is 1/2.

        Each pair is asked once, all of them in one call; a judge that can do it cheaper overrides this.

        Raises:
            Refusal: if an answer is no probability.
        """
        k, b = len(candidates), len(prompts)
        pairs = list(combinations(range(k), 2))
        found = torch.full((k, k, b), 0.5)
        if not pairs or not b:
            return found
        first = [one for i, _ in pairs for one in candidates[i]]
        second = [one for _, j in pairs for one in candidates[j]]
        said = require_probabilities(self(list(prompts) * len(pairs), first, second), self)
        for (i, j), prob in zip(pairs, said.reshape(len(pairs), b), strict=True):
            found[i, j], found[j, i] = prob, 1 - prob
        return found

    @property
    def noted(self) -> Counter[str]:
        """What the record of a round has to count, since the judge was made: answers that are `unparsable`, say."""
        return Counter()


class ScoringJudge(Judge):
    """Judges by one number a candidate, so that k candidates cost k numbers and no questions."""

    @abstractmethod
    def scores(self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]]) -> Float[Tensor, "k b"]: ...

    @abstractmethod
    def prob_of(self, first: Float[Tensor, " n"], second: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """P(first wins) by two scores."""

    def __call__(self, prompts: Sequence[Any], first: Sequence[Any], second: Sequence[Any]) -> Float[Tensor, " n"]:
        return self.prob_of(*self.scores(prompts, [first, second]))

    def wins(self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]]) -> Float[Tensor, "k k b"]:
        scores = self.scores(prompts, candidates)
        k, b = scores.shape
        first, second = scores[:, None].expand(k, k, b), scores[None].expand(k, k, b)
        return self.prob_of(first.flatten(), second.flatten()).reshape(k, k, b)


class Pair(NamedTuple):
    """Two candidates of one prompt, the better one first.

    Attributes:
        row: number of the prompt in the batch.
        chosen, rejected: numbers of candidates.
        prob: P(chosen wins), at least 1/2.
        score: of both, zeros if nothing was scored.
        weight: importance of the pair.
        calibration: number of a third candidate that goes with the pair, without being compared.
    """

    row: int
    chosen: int
    rejected: int
    prob: float = 1.0
    score: tuple[float, float] = (0.0, 0.0)
    weight: float = 1.0
    calibration: int | None = None


class Pairing(ABC):
    """Makes pairs of candidates, and asks a judge no more than it needs for that."""

    @abstractmethod
    def __call__(
        self,
        prompts: Sequence[Any],
        candidates: Sequence[Sequence[Any]],
        judge: Judge,
        scores: Float[Tensor, "k b"] | None,
        draws: Draws,
    ) -> list[Pair]:
        """Pairs of b prompts, those of one prompt together; a prompt whose candidates tie has none.

        Two equal candidates are never a pair.

        Args:
            scores: of each candidate, if the judge has them (`Judge.scores`).
            draws: of the b rows, with the round as their epoch.

        Raises:
            Refusal: if an answer is no probability, or scores are needed and there are none.
        """

    def require_suits(self, k: int) -> None:
        """Raise a Refusal if nothing can be made of k candidates."""
        if k < 2:
            raise Refusal(f"{type(self).__name__} compares 2 candidates or more, there is {k}; sample more.")


def require_probabilities(said: Float[Tensor, " n"], judge: Judge) -> Float[Tensor, " n"]:
    """What a judge said, or a Refusal if it is no probability."""
    wrong = ~((said >= 0) & (said <= 1))
    if wrong.any():
        raise Refusal(
            f"{type(judge).__name__} says {said[wrong][0].item():.4g} where a probability is wanted, and so of "
            f"{int(wrong.sum())} of {len(said)} questions; mend the judge, or name another."
        )
    return said


def require_matrix(found: Float[Tensor, "k k b"], judge: Judge) -> Float[Tensor, "k k b"]:
    """What a judge's own `wins` said, or a Refusal if W + W^T is not 1, or an entry no probability."""
    require_probabilities(found.flatten(), judge)
    apart = (found + found.transpose(0, 1) - 1).abs()
    if (apart > CLOSE).any():
        raise Refusal(
            f"{type(judge).__name__} says of two candidates that they win against one another with probabilities that "
            f"add up to 1 only within {apart.max().item():.4g}; put it into diffpo.rounds.BothOrders, or mend it."
        )
    return found
