"""Row maps that say which pieces of an answer matter: spans of the text that differ, or the steps of a solution."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.rows import LastMap, PairRow, RowMap
from diffpo.text.data.completions import Completion, Segment, join_spoken
from diffpo.text.data.layouts import join_steps
from diffpo.text.data.rows import one_text

Span = Sequence[int]  # where it begins, and where it ends, in characters


@dataclass(frozen=True)
class MarkedSpans(RowMap):
    """Take the spans of both answers from columns that list (begin, end) in characters; they become parts.

    A pair without any span compares nothing and is dropped.

    Args:
        columns: of the chosen and of the rejected side, as the source orders them.

    Raises:
        Refusal: if spans overlap, are out of order or go beyond the text.
    """

    columns: tuple[str, str] = ("chosen_spans", "rejected_spans")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        columns = self.columns[::-1] if row.turned else self.columns
        return with_spans(row, [row.column(name, self) for name in columns])


@dataclass(frozen=True)
class TaggedSpans(RowMap):
    """Take the spans from columns that repeat the answers with tags around what differs, as RRPO's data do.

    Args:
        columns: of the chosen and of the rejected side, as the source orders them.
        tags: what stands before and after a span.

    Raises:
        Refusal: if a tagged text without its tags is not the answer.
    """

    columns: tuple[str, str] = ("answer_masked", "pred_masked")
    tags: tuple[str, str] = ("<MASK>", "</MASK>")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        columns = self.columns[::-1] if row.turned else self.columns
        spans = []
        for candidate, name in zip(row.candidates, columns, strict=True):
            pieces = re.split("|".join(map(re.escape, self.tags)), row.column(name, self))
            if "".join(pieces) != (said := one_text(candidate, row)):
                raise Refusal(
                    f"{name} of row {row.id} without {' and '.join(self.tags)} is {''.join(pieces)[:40]!r}..., the "
                    f"answer is {said[:40]!r}...; they have to be the same text."
                )
            ends = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
            spans.append(list(zip(ends[::2], ends[1::2], strict=False)))
        return with_spans(row, spans)


@dataclass(frozen=True)
class DifferingWords(RowMap):
    """Take as spans the words in which the two answers differ, by the longest runs of words that both have."""

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        words = [re.findall(r"\s*\S+|\s+$", one_text(candidate, row)) for candidate in row.candidates]
        changes = [code for code in SequenceMatcher(None, *words, autojunk=False).get_opcodes() if code[0] != "equal"]
        chosen = [(begin, end) for _, begin, end, _, _ in changes]
        rejected = [(begin, end) for _, _, _, begin, end in changes]
        return with_spans(row, [in_characters(*side) for side in zip(words, (chosen, rejected), strict=True)])


def in_characters(words: list[str], spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that count words, in characters; those of no words are left out."""
    begins = [sum(map(len, words[:i])) for i in range(len(words) + 1)]
    return [(begins[begin], begins[end]) for begin, end in spans if begin < end]


def with_spans(row: PairRow, spans: Sequence[Sequence[Span]]) -> PairRow | None:
    """The row with its candidates in pieces, or None if nothing is marked in any."""
    if not any(len(each) for each in spans):
        return None
    pieces = (cut_spans(one_text(text, row), each, row) for text, each in zip(row.candidates, spans, strict=True))
    return replace(row, candidates=tuple(pieces))


def cut_spans(text: str, spans: Sequence[Span], row: PairRow) -> Completion:
    """A text in pieces: marked ones are parts 1, 2, ..., what lies between them is part 0."""
    bounds = [0, *(position for span in spans for position in span), len(text)]
    if sorted(bounds) != bounds or any(begin == end for begin, end in spans):
        raise Refusal(
            f"Row {row.id} has spans {[tuple(span) for span in spans]} in a text of {len(text)} characters; give them "
            "in their order, not empty, apart from one another and as (begin, end)."
        )
    pieces = (text[begin:end] for begin, end in zip(bounds, bounds[1:], strict=False))
    parts = ((piece, (i + 1) // 2 if i % 2 else 0) for i, piece in enumerate(pieces))
    return Completion(tuple(Segment(piece, part=part) for piece, part in parts if piece))


@dataclass(frozen=True)
class SplitSteps(RowMap):
    r"""Split each answer into steps, which become its parts 1, 2, ...

    Args:
        pattern: regular expression; a step begins after each match, or at it if it is empty: `(?=Step \d)`. The
            default is the end of a line. White space alone is no step.
    """

    pattern: str = r"\n+"

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        return replace(row, candidates=tuple(join_steps(self.steps(one_text(text, row))) for text in row.candidates))

    def steps(self, text: str) -> list[str]:
        ends = (match.end() for match in re.finditer(self.pattern, text))
        bounds = [0, *(end for end in ends if text[:end].strip()), len(text)]
        return [text[begin:end] for begin, end in zip(bounds, bounds[1:], strict=False) if begin < end]


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
        shown = {way: join_spoken(said) for way, said in zip(ways, row.candidates, strict=True)}
        asked = fill_template(self.template, shown | {"prompt": join_spoken(row.prompts[0] or "")})
        named = {side: f"the {way} answer" for side, way in zip(("chosen", "rejected"), ways, strict=True)}
        rationale = fill_template(str(row.column(self.column, self)), named)
        prompt = asked if isinstance(row.prompts[0], str) else [{"role": "user", "content": asked}]
        return replace(
            row,
            prompts=(*row.prompts, prompt),
            candidates=(*row.candidates, rationale),
            scores=(*row.scores, 0.0),
        )


def fill_template(text: str, values: dict[str, str]) -> str:
    """{name} replaced by its value, in one pass: values may contain braces."""
    return re.sub("|".join(rf"\{{{name}\}}" for name in values), lambda match: values[match.group()[1:-1]], text)
