"""Layouts that only texts have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.rows import PairRow, RowMap
from diffpo.data.source import FileLayout, Refer
from diffpo.text.data.completions import Completion, Message, Segment
from diffpo.text.data.messages import holds_messages, is_conversation, plain_messages


@dataclass(frozen=True)
class Conversations(FileLayout):
    """Two whole conversations per row, as lists of messages; what they begin with alike is the prompt.

    Of a single conversation, set `rejected` to null: its prompt ends before the assistant first speaks.

    Raises:
        Refusal: if a conversation is none, or if two do not begin alike.
    """

    chosen: str = "chosen"
    rejected: str | None = "rejected"

    @property
    def candidates(self) -> tuple[str, ...]:
        return ()

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.chosen,) if self.rejected is None else (self.chosen, self.rejected)

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        sides = [read_conversation(record[name], index, name) for name in self.needs]
        alike = count_shared(sides)
        first = next((i for i, message in enumerate(sides[0]) if message["role"] == "assistant"), len(sides[0]))
        begin = min(alike, first) if alike == min(map(len, sides)) else alike
        if any(len(side) == begin for side in sides):
            raise Refusal(f"A conversation of row {index} has no answer; fix or leave out such rows.")
        asks = any(side[begin]["role"] == "user" for side in sides) and sides[0][begin - 1]["role"] != "assistant"
        if not begin or asks:
            raise Refusal(
                f"The conversations of row {index} begin differently, so they share no prompt that was answered; use "
                "diffpo.data.Columns if they are answers to a column of prompts."
            )
        prompt, candidates = sides[0][:begin], tuple(side[begin:] for side in sides)
        return PairRow(index, (prompt,) * len(sides), candidates, scores=(0.0,) * len(sides), extra=record)


def read_conversation(found: Any, index: int, column: str) -> list[Message]:
    """What a cell holds, as messages written in one way."""
    if isinstance(found, str):
        remedy = (
            "parse them (json.loads) when the table is made"
            if holds_messages(found)
            else "split each into messages with role and content, or into texts for the columns prompt, chosen and "
            "rejected of diffpo.data.Columns (the prompt is what both begin with, up to the last answer)"
        )
        raise Refusal(f"Row {index} has a text in {column}, {found[:60]!r}, Conversations takes messages; {remedy}.")
    if not is_conversation(found):
        raise Refusal(
            f"Row {index} has no conversation in {column}: {str(found)[:60]!r} ({type(found).__name__}) is no list of "
            "messages with role and content; fix or leave out such rows, or name another column."
        )
    try:
        return plain_messages(found)
    except Refusal as error:
        raise Refusal(f"Row {index}: {error}") from error


def count_shared(sides: Sequence[Sequence[Any]]) -> int:
    """How many messages all conversations begin with alike."""
    alike = 0
    for messages in zip(*sides, strict=False):
        if any(message != messages[0] for message in messages):
            break
        alike += 1
    return alike


NUMBER = int | float


@dataclass(frozen=True)
class Lists(FileLayout):
    """One record per prompt: answers and their scores, which become a row of candidates, best first.

    Equal scores keep the order of the data; a list of equal scores only is a tie. Rows of one run need equally many
    candidates: let the row map `ListOf` come first.

    Args:
        prompt: column of texts, or of lists of messages.
        responses: column with the list of answers; each a text, or a list of messages.
        scores: column with the list of their scores, the greater the better; null is none yet, and every list a tie,
            for `diffpo score`.
        steps: column with the list of steps of each answer, lists of texts that make up the answer; then `responses`
            is not read.
        low: score that becomes 0.
        high: score that becomes 1.

    Raises:
        Refusal: if `low < high` does not hold, or a record has not one number for each answer, or one out of range.
    """

    prompt: str = "prompt"
    responses: str = "responses"
    scores: str | None = "scores"
    steps: str | None = None
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self):
        if not self.low < self.high:
            raise Refusal(f"Lists needs low < high, got {self.low} and {self.high}.")

    @property
    def candidates(self) -> tuple[str, ...]:
        return ()

    @property
    def needs(self) -> tuple[str, ...]:
        return self.prompt, self.steps or self.responses, *((self.scores,) if self.scores else ())

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        prompt, answers = record[self.prompt], record[self.steps or self.responses]
        unscored = [self.low] * len(answers) if isinstance(answers, list) else []
        scores = record[self.scores] if self.scores else unscored
        listed = is_list(answers, list if self.steps else object)
        whole = listed and (not self.steps or all(is_list(steps, str) for steps in answers))
        for name, found, right in zip(
            (*self.needs[1:], "scores")[:2], (answers, scores), (whole, is_list(scores, NUMBER)), strict=True
        ):
            if not right:
                raise Refusal(
                    f"Row {index} has {name} {str(found)[:60]!r} ({type(found).__name__}); Lists takes lists of "
                    f"answers{' in steps, which are lists of texts' * bool(self.steps)}, and of numbers as scores."
                )
        if len(answers) != len(scores) or not answers:
            raise Refusal(
                f"Row {index} has {len(answers)} answers and {len(scores)} scores; it needs one score for each answer."
            )
        share = [(score - self.low) / (self.high - self.low) for score in scores]
        if not all(0 <= value <= 1 for value in share):
            raise Refusal(
                f"Row {index} has scores {scores}, not all in [{self.low}, {self.high}]; set low and high of the "
                "source to the range of its scorer."
            )
        order = sorted(range(len(answers)), key=lambda i: -share[i])
        said = [join_steps(answers[i]) if self.steps else answers[i] for i in order]
        prob = 0.5 if min(share) == max(share) else 1.0
        ranked = tuple(share[i] for i in order)
        return PairRow(index, (prompt,) * len(order), tuple(said), prob=prob, scores=ranked, extra=record)


def is_list(found: Any, kind: Any) -> bool:
    return isinstance(found, list) and all(isinstance(x, kind) and not isinstance(x, bool) for x in found)


def join_steps(steps: list[str]) -> Completion:
    """Steps, one after the other, as parts of a completion."""
    return Completion(tuple(Segment(text, part=number) for number, text in enumerate(steps, start=1)))


@dataclass(frozen=True)
class ListOf(RowMap):
    """Keep `size` candidates of each row: the best, the worst, and those at equal distances between them.

    Rows with fewer are dropped. Two of them are the usual pair of a best-of-n data set.

    Raises:
        Refusal: if the size is below 2.
    """

    size: int

    def __post_init__(self):
        if self.size < 2:
            raise Refusal(f"ListOf needs a size of at least 2, got {self.size}.")

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        n = len(row.candidates)
        if n < self.size:
            return None
        kept = [i * (n - 1) // (self.size - 1) for i in range(self.size)]
        prompts, candidates, scores = (
            tuple(values[i] for i in kept) for values in (row.prompts, row.candidates, row.scores)
        )
        return replace(row, prompts=prompts, candidates=candidates, scores=scores)
