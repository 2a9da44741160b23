"""Candidates of one prompt from several samplers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffpo.annotators.captioners.roles import Interrupted
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
        Refusal: if there is not one positive count for each sampler, or some draw and others write; when it samples,
            if k is another number.
    """

    samplers: list[Sampler]
    counts: list[int]

    def __post_init__(self):
        if not self.samplers or len(self.samplers) != len(self.counts) or min(self.counts) < 1:
            raise Refusal(
                f"SeveralSamplers needs a positive count for each of {len(self.samplers)} samplers, got {self.counts}."
            )

        if len({one.makes for one in self.samplers}) > 1:
            raise Refusal("Some of these samplers make texts and others pictures; a round has candidates of one kind.")

    @property
    def makes(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.samplers[0].makes

    @property
    def together(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return min((one.together for one in self.samplers if one.together), default=None)

    @property
    def identity(self) -> dict[str, Any]:
        asked = [sampler.identity for sampler in self.samplers]
        return {"sampler": type(self).__name__, "counts": self.counts, "of": asked}

    def __call__(self, model: Any, prompts: Sequence[Any], k: int, draws: Draws) -> list[list[Sampled]]:
        if k != sum(self.counts):
            raise Refusal(
                f"SeveralSamplers samples {sum(self.counts)} candidates, rounds.k is {k}; change counts or k."
            )
        found: list[list[Sampled]] = []
        for n, (sampler, count) in enumerate(zip(self.samplers, self.counts, strict=True)):
            try:
                found += sampler(model, prompts, count, replace(draws, seed=draws.seed + APART * n))
            except Interrupted as error:
                before, first = [one for side in found for one in side], len(found) * len(prompts)
                said = dict(enumerate(before)) | {first + place: one for place, one in error.said.items()}
                raise Interrupted(str(error), said) from error
        return found
