"""Rationales: the model also learns to say why the chosen answer is better (RDPO and RORPO, arXiv:2407.14477)."""

import re
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from diffpo.core import Objective, PairLogps, PairLoss, Step
from diffpo.draws import Draws
from diffpo.losses.likelihood import ChosenNLL
from diffpo.references import Reference
from diffpo.rows import PairRow, RowMap
from diffpo.text.completions import spoken
from diffpo.text.objective import SequencePreference
from diffpo.text.selecting import between
from diffpo.text.sequences import TokenBatch, token_logps

TEMPLATE = (
    "Question:\n{prompt}\n\nThe first answer:\n{first}\n\nThe second answer:\n{second}\n\n"
    "Which of the two answers is better, and why?\n"
)


@dataclass(frozen=True)
class WithRationale(RowMap):
    """Add a third candidate: the rationale, whose prompt is the question with both answers, asking for it.

    A coin, fixed by the seed and the row, says which answer is shown first; in the rationale `{chosen}` and
    `{rejected}` become "the first answer" and "the second answer" as the coin has it. Put it last.

    Args:
        column: with the rationale.
        template: with {prompt}, {first} and {second}.

    Raises:
        ValueError: if the template lacks one of them, a row is no pair, or its sides were exchanged: the rationale
            would argue for the wrong one, which is known to destroy the effect.
    """

    column: str = "rationale"
    template: str = TEMPLATE

    def __post_init__(self):
        if missing := [name for name in ("{prompt}", "{first}", "{second}") if name not in self.template]:
            raise ValueError(f"The template of WithRationale lacks {', '.join(missing)}; add what is missing.")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        if len(row.candidates) != 2:
            raise ValueError(f"WithRationale takes pairs, row {row.id} has {len(row.candidates)} candidates.")
        if row.turned:
            raise ValueError(
                f"The sides of row {row.id} were exchanged, its rationale argues for the loser; drop that map."
            )
        ways = ("first", "second") if draws.uniform("rationale") < 0.5 else ("second", "first")
        shown = {way: spoken(said) for way, said in zip(ways, row.candidates, strict=True)}
        asked = filled(self.template, shown | {"prompt": spoken(row.prompts[0] or "")})
        named = {side: f"the {way} answer" for side, way in zip(("chosen", "rejected"), ways, strict=True)}
        rationale = filled(str(row.column(self.column, self)), named)
        prompt = asked if isinstance(row.prompts[0], str) else [{"role": "user", "content": asked}]
        return replace(
            row,
            prompts=(*row.prompts, prompt),
            candidates=(*row.candidates, rationale),
            scores=(*row.scores, 0.0),
        )


def filled(text: str, values: dict[str, str]) -> str:
    """{name} replaced by its value, in one pass: values may contain braces."""
    return re.sub("|".join(rf"\{{{name}\}}" for name in values), lambda match: values[match.group()[1:-1]], text)


@dataclass(frozen=True)
class RationalePreference(Objective):
    """L(chosen, rejected) - gamma log p(rationale | prompt, both answers); the reference does not see the rationale.

    RDPO is `base` with the sigmoid loss, RORPO with `ORPO`. The authors' code
    (github.com/reds-lab/preference-learning-with-rationales) instead has -log sigmoid(gamma sum log p) with gamma 0.1
    for RDPO; ours is the paper's form. Its sums grow with the length of rationales, so the mean over tokens is the
    default here, and gamma belongs to it.

    Args:
        base: L.
        gamma: weight of the rationale; 2 in the paper (10 for RORPO), where 1 to 10 are compared.
        rationale: of a rationale's log-likelihood; ChosenTotalNLL is the paper's sum over tokens.
    """

    base: SequencePreference = field(default_factory=SequencePreference)
    gamma: float = 2.0
    rationale: PairLoss = field(default_factory=ChosenNLL)

    @property
    def needs_candidates(self) -> int:
        return 3

    @property
    def asks(self) -> tuple[str, ...]:
        return self.base.asks

    def __call__(self, policy: nn.Module, reference: Reference | None, batch: TokenBatch, draws: Draws) -> Step:
        preferred = self.base(policy, reference, between(batch, 0, 2), draws)
        reasons = between(batch, 2, 3)
        said = token_logps(policy, reasons).sum(-1)
        pair = PairLogps(said, torch.zeros_like(said), length=reasons.scored[..., 1:].sum(-1).float())
        error = self.rationale(pair, reasons.label)
        loss = preferred.loss + self.gamma * (batch.label.weight * error).mean()
        return Step(loss, preferred.metrics | {"rationale/nll": error.detach()})
