"""Candidates of one prompt from several samplers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.rounds.roles import Sampled, Sampler

APART = 1_000_003  # between the seeds of two samplers, so that none repeats what another has drawn


@dataclass(frozen=True)
class SeveralSamplers(Sampler):
    """The first candidates of each prompt from one sampler, the next ones from another: two hot ones and an opponent.

    Args:
        samplers: of the same model.
        counts: candidates of each; their sum is the k of the round.

    Raises:
        Refusal: if there is not one positive count for each sampler; when it samples, if k is another number.
    """

    samplers: list[Sampler]
    counts: list[int]

    def __post_init__(self):
        if not self.samplers or len(self.samplers) != len(self.counts) or min(self.counts) < 1:
            raise Refusal(
                f"SeveralSamplers needs a positive count for each of {len(self.samplers)} samplers, got {self.counts}."
            )

    @property
    def identity(self) -> dict[str, Any]:
        asked = [sampler.identity for sampler in self.samplers]
        return {"sampler": type(self).__name__, "counts": self.counts, "of": asked}

    def __call__(self, model: Any, prompts: Sequence[Any], k: int, draws: Draws) -> list[list[Sampled]]:
        if k != sum(self.counts):
            raise Refusal(
                f"SeveralSamplers samples {sum(self.counts)} candidates, rounds.k is {k}; change counts or k."
            )
        both = enumerate(zip(self.samplers, self.counts, strict=True))
        own = [one(model, prompts, some, replace(draws, seed=draws.seed + APART * n)) for n, (one, some) in both]
        return [side for sides in own for side in sides]
