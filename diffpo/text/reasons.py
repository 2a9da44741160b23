"""A row map that asks why the chosen answer is better."""

import re
from dataclasses import dataclass, replace

from diffpo.draws import Draws
from diffpo.refusal import Refusal
from diffpo.rows import LastMap, PairRow
from diffpo.text.completions import spoken

TEMPLATE = (
    "Question:\n{prompt}\n\nThe first answer:\n{first}\n\nThe second answer:\n{second}\n\n"
    "Which of the two answers is better, and why?\n"
)


@dataclass(frozen=True)
class WithRationale(LastMap):
    """Add a third candidate: the rationale, whose prompt is the question with both answers, asking for it.

    A coin, fixed by the seed and the row, says which answer is shown first; in the rationale `{chosen}` and
    `{rejected}` become "the first answer" and "the second answer" as the coin has it. Put it last.

    Args:
        column: with the rationale.
        template: with {prompt}, {first} and {second}.

    Raises:
        Refusal: if the template lacks one of them, a row is no pair, or its sides were exchanged: the rationale
            would argue for the wrong one, which is known to destroy the effect.
    """

    column: str = "rationale"
    template: str = TEMPLATE

    def __post_init__(self):
        if missing := [name for name in ("{prompt}", "{first}", "{second}") if name not in self.template]:
            raise Refusal(f"The template of WithRationale lacks {', '.join(missing)}; add what is missing.")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        if len(row.candidates) != 2:
            raise Refusal(f"WithRationale takes pairs, row {row.id} has {len(row.candidates)} candidates.")
        if row.turned:
            raise Refusal(
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
