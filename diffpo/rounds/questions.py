"""What a judge was asked, and what it said: recorded, so that pairs can be made without the judge."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core.refusal import Refusal
from diffpo.rounds.contents import name_content
from diffpo.rounds.roles import Judge, ScoringJudge, require_matrix

Asked = tuple[str, str, str]


class Recording(Judge):
    """A judge that is asked nothing twice, and whose verdicts are kept.

    Attributes:
        asked: questions that it was asked.

    Args:
        opened: what the judge sees of a content, e.g. the picture whose path it is.
    """

    def __init__(self, judge: Judge, opened: Callable[[Any], Any] = lambda content: content):
        self.judge, self.opened, self.asked = judge, opened, 0
        self.said: dict[Asked, float] = {}
        self.scored: dict[tuple[str, str], float] = {}

    @property
    def identity(self) -> dict[str, Any]:
        return self.judge.identity

    @property
    def noted(self) -> Counter[str]:
        return self.judge.noted

    def scores(self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]]) -> Float[Tensor, "k b"] | None:
        found = self.judge.scores(prompts, [self.seen(side) for side in candidates])
        if found is not None:
            for side, of_side in zip(candidates, found.tolist(), strict=True):
                for prompt, content, score in zip(prompts, side, of_side, strict=True):
                    self.scored[name_content(prompt), name_content(content)] = score
        return found

    def __call__(self, prompts: Sequence[Any], first: Sequence[Any], second: Sequence[Any]) -> Float[Tensor, " n"]:
        asked = zip(prompts, first, second, strict=True)
        keys = [(name_content(prompt), name_content(one), name_content(other)) for prompt, one, other in asked]
        fresh = {
            (prompt, *sorted(sides)): n
            for n, (prompt, *sides) in reversed([*enumerate(keys)])
            if self.recall(keys[n]) is None
        }
        numbers = sorted(fresh.values())
        if numbers:
            some = [[side[n] for n in numbers] for side in (prompts, first, second)]
            self.asked += len(numbers)
            for n, prob in zip(numbers, self.ask(*some).tolist(), strict=True):
                self.said[keys[n]] = prob
        return torch.tensor([self.recall(key) for key in keys], dtype=torch.float64)

    def ask(self, prompts: Sequence[Any], first: Sequence[Any], second: Sequence[Any]) -> Float[Tensor, " n"]:
        """The judge's verdicts; by scores that it gave before, if it goes by scores."""
        if not isinstance(self.judge, ScoringJudge):
            return self.judge(prompts, self.seen(first), self.seen(second))
        sides = [
            [(name_content(prompt), name_content(one)) for prompt, one in zip(prompts, side, strict=True)]
            for side in (first, second)
        ]
        if not all(key in self.scored for side in sides for key in side):
            self.scores(prompts, [first, second])
        found = [torch.tensor([self.scored[key] for key in side], dtype=torch.float64) for side in sides]
        return self.judge.prob_of(*found)

    def wins(self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]]) -> Float[Tensor, "k k b"]:
        if isinstance(self.judge, ScoringJudge):
            return super().wins(prompts, candidates)
        seen = [self.seen(side) for side in candidates]
        found = require_matrix(self.judge.wins(prompts, seen), self.judge).double()
        for i, j in combinations(range(len(candidates)), 2):
            self.asked += len(prompts)
            for prompt, first, second, prob in zip(
                prompts, candidates[i], candidates[j], found[i, j].tolist(), strict=True
            ):
                self.said[name_content(prompt), name_content(first), name_content(second)] = prob
        return found

    def seen(self, side: Sequence[Any]) -> list[Any]:
        return [self.opened(content) for content in side]

    def recall(self, key: Asked) -> float | None:
        """What was said to a question, or to the same in the other order."""
        prompt, first, second = key
        if key in self.said:
            return self.said[key]
        turned = self.said.get((prompt, second, first))
        return None if turned is None else 1 - turned

    def verdicts_on(self, prompt: Any, candidates: Sequence[Any]) -> list[tuple[int, int, float]]:
        """All that was said of the candidates of one prompt: (first, second, P(first wins)), first < second."""
        keys = [name_content(content) for content in candidates]
        pairs = ((i, j) for i, j in combinations(range(len(keys)), 2) if keys[i] != keys[j])
        found = ((i, j, self.recall((name_content(prompt), keys[i], keys[j]))) for i, j in pairs)
        return [(i, j, prob) for i, j, prob in found if prob is not None]


class Recorded(Judge):
    """Answers as it was recorded; what was not asked then is refused.

    Args:
        said: verdicts by prompt, first and second candidate, each by its key (`name_content`).
        scored: scores by prompt and candidate; empty if there were none.
        about: identity of the judge that said so.
    """

    def __init__(self, said: Mapping[Asked, float], scored: Mapping[tuple[str, str], float], about: Mapping[str, Any]):
        self.said, self.scored, self.about = said, scored, about

    @property
    def identity(self) -> dict[str, Any]:
        return dict(self.about)

    def scores(self, prompts: Sequence[Any], candidates: Sequence[Sequence[Any]]) -> Float[Tensor, "k b"] | None:
        if not self.scored:
            return None
        asked = [
            [(name_content(p), name_content(x)) for p, x in zip(prompts, side, strict=True)] for side in candidates
        ]
        if any(key not in self.scored for side in asked for key in side):
            raise Refusal("A candidate has no recorded score while others have; judge them anew (diffpo judge).")
        return torch.tensor([[self.scored[key] for key in side] for side in asked], dtype=torch.float64)

    def __call__(self, prompts: Sequence[Any], first: Sequence[Any], second: Sequence[Any]) -> Float[Tensor, " n"]:
        return torch.tensor(
            [
                self.recall(name_content(p), name_content(x), name_content(y))
                for p, x, y in zip(prompts, first, second, strict=True)
            ],
            dtype=torch.float64,
        )

    def recall(self, prompt: str, first: str, second: str) -> float:
        if first == second:
            return 0.5
        if (prompt, first, second) in self.said:
            return self.said[prompt, first, second]
        if (prompt, second, first) in self.said:
            return 1 - self.said[prompt, second, first]
        raise Refusal(
            "This pairing asks what the judge was not asked; judge the candidates for this pairing, or all of them "
            "(diffpo judge without --pairing)."
        )
