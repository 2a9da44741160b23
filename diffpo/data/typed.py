"""Values of tables at the door: what may stand for a prompt, a number or a verdict, whatever type it comes in."""

import math
import reprlib
from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal

MARK = "\ufeff"
MARKED = "had a byte-order mark before a text, which was removed"
SEVERAL = "have several captions (training draws one at each visit, all else takes the first)"
FIRST = "have several captions, of which the first was taken"
WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
LONGEST = 80  # characters of a value that an error shows
SHORTENED = reprlib.Repr()
SHORTENED.maxstring = SHORTENED.maxother = LONGEST


def show_value(value: Any) -> str:
    """A value for an error: never more of it than fits on a line."""
    text = f"{len(value)} bytes" if isinstance(value, bytes) else SHORTENED.repr(value).replace("\n", " ")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def is_null(value: Any) -> bool:
    """Whether a value says nothing: null, or NaN, which pandas makes of null."""
    return value is None or (isinstance(value, Real) and math.isnan(value))


class Captions(tuple[str, ...]):
    """A list of captions of one picture; as a text, it is the first."""

    __slots__ = ()

    def __str__(self) -> str:
        return self[0]

    def drawn(self, draws: Draws) -> str:
        """The caption of this visit; candidates with equally many draw the same one."""
        return self[int(draws.integers("caption", len(self)))]


def list_captions(prompt: Any) -> Sequence[Any]:
    """All captions that the prompt of a picture is."""
    return prompt if isinstance(prompt, Captions) else (prompt,)


def texts_of(value: Any) -> Captions | None:
    """The texts that a value is, without byte-order marks: one, several or (if it is null) none; None if it is none of
    this."""
    values = [value] if isinstance(value, str) else [] if is_null(value) else value
    if not isinstance(values, list | tuple) or not all(isinstance(text, str) for text in values):
        return None
    return Captions(text.removeprefix(MARK) for text in values)


class Field(NamedTuple):
    """One value of one row, and where it stands, for errors."""

    row: int
    column: str
    value: Any

    def __str__(self) -> str:
        return f"Row {self.row} has {self.column} = {show_value(self.value)}"

    def refusal(self, wanted: str) -> Refusal:
        return Refusal(f"{self}, of type {type(self.value).__name__}; {wanted}")

    @property
    def reading(self) -> float:
        """A number, as it is or written out, or a word for true or false; NaN if there is nothing, infinite if it is
        anything else."""
        value = self.value.strip().lower() if isinstance(self.value, str) else self.value
        if value is None or value == "":
            return math.nan
        try:
            return WORDS[value] if isinstance(value, str) and value in WORDS else float(value)
        except (TypeError, ValueError, OverflowError):
            return math.inf

    def number(self) -> float | None:
        """A finite number; None if it is null, NaN or an empty text.

        Raises:
            Refusal: if it is anything else.
        """
        if math.isinf(number := self.reading):
            raise self.refusal("it has to be a finite number.")
        return None if math.isnan(number) else number

    def verdict(self, among: Collection[float | int], wanted: str) -> float | None:
        """One of some numbers; None if it is null, NaN or an empty text.

        Args:
            wanted: what to tell who has anything else.

        Raises:
            Refusal: if it is anything else.
        """
        if math.isnan(number := self.reading):
            return None
        if number not in among:
            raise Refusal(f"{self}; {wanted}")
        return number

    def prompt(self) -> Any:
        """A list of chat messages as it is, or what `caption` makes of anything else."""
        value = self.value
        is_chat = isinstance(value, list | tuple) and value and all(isinstance(said, Mapping) for said in value)
        return value if is_chat and all("role" in said for said in value) else self.caption()

    def caption(self) -> "str | Captions | None":
        """A text without byte-order mark, or a list of such texts; None if there is none.

        Raises:
            Refusal: if it is neither a text nor a list of texts.
        """
        if (texts := texts_of(self.value)) is None:
            raise self.refusal(
                "a prompt is a text, or a list of texts of which each visit draws one; name the column of texts, or "
                "store this one as text."
            )
        return (str(texts) if isinstance(self.value, str) else texts) if texts else None

    @property
    def is_marked(self) -> bool:
        """Whether a text in it has a byte-order mark."""
        texts = self.value if isinstance(self.value, list | tuple) else [self.value]
        return any(isinstance(text, str) and text.startswith(MARK) for text in texts)


def read_prompts(row: int, record: Mapping[str, Any], *columns: str) -> dict[str, Any]:
    """What a `PairRow` says of its prompts: `prompts`, one for each column, and perhaps `notes`.

    Raises:
        Refusal: if one is no prompt.
    """
    values = tuple([record[column] for column in columns])
    if all([isinstance(value, str) and not value.startswith(MARK) for value in values]):  # millions are so
        return {"prompts": values}
    fields = [Field(row, column, value) for column, value in zip(columns, values, strict=True)]
    prompts = tuple(field.prompt() for field in fields)
    several = (SEVERAL,) if any(isinstance(prompt, Captions) and len(prompt) > 1 for prompt in prompts) else ()
    marked = (MARKED,) if any(field.is_marked for field in fields) else ()
    return {"prompts": prompts, "notes": several + marked}
