"""SPO, self-supervised: the model also tells how much key content an answer has lost (arXiv:2409.17791)."""

from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from diffpo.core.draws import Draws
from diffpo.core.needs import Candidates
from diffpo.core.objective import Objective, Requirements, Step
from diffpo.core.references import Reference
from diffpo.core.refusal import Refusal
from diffpo.data.rows import LastMap, PairRow
from diffpo.text.data.batches import TokenBatch
from diffpo.text.data.keywords import find_phrases, rank_phrases, remove_phrases
from diffpo.text.data.rows import one_text
from diffpo.text.model.states import attach_part, find_last, own_rate, part_of, read_states, take_at
from diffpo.text.objective.preference import SequencePreference
from diffpo.text.objective.selecting import take_between, take_candidates

HEAD = "preference_degree"


@dataclass(frozen=True)
class Degrade(LastMap):
    """Add copies of both answers at `levels` - 1 levels of degradation: level j lacks the best j / levels of the
    key phrases, found by RAKE (English). A pair with fewer phrases than levels in an answer is dropped.

    The candidates of level j are 2 j (chosen) and 2 j + 1 (rejected); level 0 are the answers themselves.

    Raises:
        Refusal: if there are fewer than two levels, or a row has not two candidates.
    """

    levels: int = 3

    def __post_init__(self):
        if self.levels < 2:
            raise Refusal(f"Degrade needs at least 2 levels, the intact answer being one, got {self.levels}.")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        if len(row.candidates) != 2:
            raise Refusal(f"Degrade takes pairs, row {row.id} has {len(row.candidates)} candidates; put it last.")
        sides = [self.degraded(one_text(candidate, row)) for candidate in row.candidates]
        if any(len(copies) < self.levels - 1 for copies in sides):
            return None
        copies = tuple(text for level in zip(*sides, strict=True) for text in level)
        scores = row.scores + (0.0,) * len(copies)
        return replace(row, prompts=row.prompts * self.levels, candidates=row.candidates + copies, scores=scores)

    def degraded(self, text: str) -> list[str]:
        """Copies at levels 1, 2, ...; none if there are too few phrases to tell levels apart."""
        found = find_phrases(text)
        best = rank_phrases(found)
        if len(best) < self.levels:
            return []
        cuts = [ceil(level * len(best) / self.levels) for level in range(1, self.levels)]
        return [remove_phrases(text, found, set(best[:cut])) for cut in cuts]


@dataclass(frozen=True)
class SelfSupervised(Objective):
    """L_align + gamma [CE(level | chosen copy) + CE(level | rejected copy)].

    For each side one of its copies (see `Degrade`) is drawn at each visit, the answer itself included, and a linear
    head on the state of its last token names its level. The head starts at zero, is trained with the model and is not
    exported. Of the paper only the idea is public (its repository holds no code): gamma, number of levels and head are
    ours. A copy is shorter the more it lacks, so a part of what the head learns may be length.

    Args:
        base: L_align, of the answers themselves.
        gamma: weight of the classification.
        levels: as in `Degrade`.
        head_lr: learning rate of the head.
    """

    learns_from: ClassVar[str] = "texts"
    base: SequencePreference = field(default_factory=SequencePreference)
    gamma: float = 0.1
    levels: int = 3
    head_lr: float = 1e-4

    @property
    def requires(self) -> Requirements:
        degrade = f"end data.rows with diffpo.text.methods.Degrade of {self.levels} levels"
        levels = Candidates(2 * self.levels, 2 * self.levels, degrade)
        return replace(self.base.requires, candidates=levels, cacheable_by=None)

    def attach(self, policy: Any, seed: int) -> None:
        head = nn.utils.skip_init(nn.Linear, policy.config.get_text_config().hidden_size, self.levels)
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
        attach_part(policy, HEAD, head)

    def trained(self, policy: Any) -> list[Any]:
        return own_rate(policy, HEAD, self.head_lr)

    def __call__(self, policy: nn.Module, reference: Reference | None, batch: TokenBatch, draws: Draws) -> Step:
        aligned = self.base(policy, reference, take_between(batch, 0, 2), draws)
        levels = torch.stack([draws.integers(f"level of {side}", self.levels) for side in ("chosen", "rejected")])
        copies = take_candidates(batch, 2 * levels + torch.arange(2, device=levels.device)[:, None])
        head, position = part_of(policy, HEAD), find_last(copies)
        logits = read_states(
            policy, copies, lambda states: head(take_at(states, position).flatten(0, 1).float())
        ).float()
        error = cross_entropy(logits, levels.flatten(), reduction="none").unflatten(0, levels.shape).sum(0)
        right = (logits.argmax(-1) == levels.flatten()).float().unflatten(0, levels.shape).mean(0)
        curves = {"degree/cross_entropy": error.detach() / 2, "degree/accuracies": right}
        return Step(aligned.loss + self.gamma * (batch.label.weight * error).mean(), aligned.metrics | curves)
