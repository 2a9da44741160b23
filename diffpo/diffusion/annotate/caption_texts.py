"""Captions of both pictures of every pair, and their perturbations: asked for, asked again if empty, and kept."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from PIL import Image

from diffpo.annotators.captioners.roles import Captioner, Interrupted, Perturber, Strategy, Strength, clean_text
from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal, require_at_least
from diffpo.data.rows import PairRow
from diffpo.data.typed import Field
from diffpo.diffusion.annotate.pairs_in_order import PairsInOrder
from diffpo.diffusion.annotate.read_ahead import read_ahead
from diffpo.diffusion.annotate.score import list_questions
from diffpo.storage.shared_work import shared_out

T = TypeVar("T")

BATCHES = 64
REMEMBERED = 2**16  # captions of pictures that may come again


class RawAnswer(TypedDict):
    """A raw answer, None if there was nothing to ask about; and how often it was asked for again."""

    raw: str | None
    retried: int


class Text(TypedDict):
    """The caption of one side, None if it has none; the raw answer it is made of; and the text that was perturbed."""

    caption: str | None
    raw: str | None
    perturbed_from: str | None


@dataclass(frozen=True, eq=False)
class Plan:
    """Who says what, and how.

    Attributes:
        columns: where the texts of sides that are not captioned are, as the source orders them; None is the prompt.
        retries: how often an empty answer is asked for again, each time with another seed.
        seed: of the speakers' draws.

    Raises:
        Refusal: if the strategy needs a captioner or a perturber, and there is none, or retries are negative.
    """

    strategy: Strategy
    captioner: Captioner | None = None
    perturber: Perturber | None = None
    strength: Strength = Strength.weak
    columns: tuple[str, str] | None = None
    retries: int = 2
    seed: int = 0

    def __post_init__(self):
        name = self.strategy.name
        require_at_least(0, retries=self.retries)
        if self.strategy.captioned and self.captioner is None:
            raise Refusal(f"Strategy {name} needs a captioner; name one, e.g. diffpo.annotators.ChatCaptioner.")
        if self.strategy.perturbed is not None and self.perturber is None:
            raise Refusal(f"Strategy {name} needs a perturber; name one, e.g. diffpo.annotators.Dipper.")

    @property
    def speakers(self) -> list[Captioner | Perturber]:
        """Those that the strategy asks, in order."""
        captioner = [self.captioner] if self.captioner and self.strategy.captioned else []
        perturber = [self.perturber] if self.perturber and self.strategy.perturbed is not None else []
        return [*captioner, *perturber]

    @property
    def identity(self) -> dict[str, Any]:
        """What the texts depend on, but for the data."""
        perturbs = self.strategy.perturbed is not None
        return {
            "strategy": self.strategy.name,
            "strength": self.strength.name if perturbs else None,
            "speakers": [speaker.identity for speaker in self.speakers],
            "columns": self.columns and list(self.columns),
            "retries": self.retries,
            "seed": self.seed,
        }

    def original(self, row: PairRow, side: int) -> str | None:
        """The text of a side that is not captioned; None if it is empty.

        Raises:
            Refusal: if the source lacks the column, or holds no text there.
        """
        if self.columns is None:
            return text if clean_text(text := str(row.prompts[side])) else None
        name = self.columns[1 - side if row.turned else side]
        if name not in row.extra:
            have = ", ".join(sorted(row.extra)) or "none"
            raise Refusal(
                f"columns names {name!r}, row {row.id} has no such column (it has {have}); write captions with "
                "--strategy caption first and name that folder as source, or set columns to null for the prompts."
            )
        found = Field(row.id, name, row.extra[name]).caption()
        return text if found is not None and clean_text(text := str(found)) else None


@dataclass(frozen=True, eq=False)
class Texts:
    """The work itself, of which each process does its share; every answer is kept in the folder as it comes."""

    pairs: PairsInOrder
    plan: Plan
    folder: Path
    identity: Mapping[str, Any]
    batch_size: int
    known: dict[int, RawAnswer] = field(default_factory=dict)

    @cached_property
    def captions(self) -> dict[int, RawAnswer]:
        """By number: 2n is the chosen picture of pair n, 2n + 1 the rejected one; only those the strategy asks for."""
        if not self.plan.strategy.captioned or self.plan.captioner is None:
            return {}
        numbers = [2 * n + side for n in range(len(self.pairs)) for side in self.plan.strategy.captioned]
        found = partial(self.captioned, self.plan.captioner)
        said = self.shared_out(numbers, found, "captions", "picture")
        self.plan.captioner.rest()
        return said

    @cached_property
    def perturbed(self) -> dict[int, RawAnswer]:
        """By pair, if the strategy perturbs."""
        if self.plan.strategy.perturbed is None or self.plan.perturber is None:
            return {}
        found = partial(self.reworded, self.plan.perturber, self.plan.strategy.perturbed)
        said = self.shared_out(range(len(self.pairs)), found, "perturbed", "text")
        self.plan.perturber.rest()
        return said

    def shared_out(self, numbers: Sequence[int], found: Any, what: str, unit: str) -> dict[int, RawAnswer]:
        folder = self.folder / what
        return shared_out(numbers, found, BATCHES * self.batch_size, folder, self.identity, what, unit)

    def captioned(self, captioner: Captioner, numbers: Sequence[int]) -> Iterator[dict[int, RawAnswer]]:
        """A picture that comes again with the same prompt has the same caption, in this process without asking."""
        for batch in read_ahead(list(list_questions(self.pairs, numbers)), self.batch_size):
            keys = {question.row: key(picture, question.prompt) for question, picture in batch if picture}
            yield {question.row: make_no_answer() for question, picture in batch if not picture}
            if len(self.known) > REMEMBERED:
                self.known.clear()
            pictures = {keys[question.row]: (picture, question.prompt) for question, picture in batch if picture}
            new = {of: shown for of, shown in pictures.items() if of not in self.known}
            say = partial(describe_pictures, captioner)
            for said in ask_patiently(list(new.values()), say, self.draws(list(new)), self.plan.retries):
                found = {list(new)[i]: of_picture for i, of_picture in said.items()}
                self.known.update(found)
                yield {number: found[of] for number, of in keys.items() if of in found}
            yield {number: self.known[of] for number, of in keys.items() if of not in new}

    def reworded(self, perturber: Perturber, side: int, numbers: Sequence[int]) -> Iterator[dict[int, RawAnswer]]:
        say = partial(other_words, perturber, self.plan.strength)
        for begin in range(0, len(numbers), self.batch_size):
            rows = {n: self.pairs[n] for n in numbers[begin : begin + self.batch_size]}
            texts = {n: text for n, row in rows.items() if (text := self.text(n, row, side)) is not None}
            yield {n: make_no_answer() for n in rows if n not in texts}
            draws = self.draws([rows[n].id for n in texts])
            for said in ask_patiently(list(texts.values()), say, draws, self.plan.retries):
                yield {list(texts)[i]: of_text for i, of_text in said.items()}

    def draws(self, keys: Sequence[int]) -> Draws:
        return Draws(self.plan.seed, (0,) * len(keys), tuple(keys))

    def text(self, n: int, row: PairRow, side: int) -> str | None:
        """Of one side, before anything is perturbed; None if there is none."""
        if side in self.plan.strategy.captioned:
            return clean_text(self.captions[2 * n + side]["raw"])
        return self.plan.original(row, side)

    def all(self) -> dict[int, Text]:
        """By number: 2n is the chosen side of pair n, 2n + 1 the rejected one."""
        captions, perturbed = self.captions, self.perturbed  # in this order: within, processes wait for one another
        perturbs, texts = self.plan.strategy.perturbed, {}
        for n, row in enumerate(self.pairs):
            for side in (0, 1):
                if side == 1 and perturbs is not None:
                    raw, original = perturbed[n]["raw"], self.text(n, row, perturbs)
                    texts[2 * n + 1] = Text(caption=clean_text(raw), raw=raw, perturbed_from=original)
                else:
                    raw = captions[2 * n + side]["raw"] if side in self.plan.strategy.captioned else None
                    texts[2 * n + side] = Text(caption=self.text(n, row, side), raw=raw, perturbed_from=None)
        return texts


def describe_pictures(
    captioner: Captioner, asked: Sequence[tuple[Image.Image, str]], seeds: Sequence[int]
) -> list[str]:
    return captioner([picture for picture, _ in asked], [prompt for _, prompt in asked], seeds)


def other_words(perturber: Perturber, strength: Strength, texts: Sequence[str], seeds: Sequence[int]) -> list[str]:
    return perturber(texts, strength, seeds)


def ask_patiently(
    asked: Sequence[T], say: Callable[[Sequence[T], Sequence[int]], list[str]], draws: Draws, retries: int
) -> Iterator[dict[int, RawAnswer]]:
    """Answers by index as they become final: one that is not empty, or the last try.

    Args:
        say: answers, given a seed for each.
        draws: about what is asked.
    """
    left = list(range(len(asked)))
    for attempt in range(1 + retries):
        if not left:
            return
        seeds = draws.of(left).integers(f"text/{attempt}", 2**31).tolist()
        try:
            texts = dict(zip(left, say([asked[i] for i in left], seeds), strict=True))
        except Interrupted as error:
            yield {left[i]: RawAnswer(raw=text, retried=attempt) for i, text in error.said.items() if clean_text(text)}
            raise
        final = {i: text for i, text in texts.items() if clean_text(text) or attempt == retries}
        yield {i: RawAnswer(raw=text, retried=attempt) for i, text in final.items()}
        left = [i for i in left if i not in final]


def make_no_answer() -> RawAnswer:
    return RawAnswer(raw=None, retried=0)


def key(picture: Image.Image, prompt: str) -> int:
    """The same for the same pixels and prompt, whatever row they stand in."""
    digest = hashlib.blake2b(f"{picture.size}/{prompt}/".encode(), digest_size=8)
    digest.update(picture.tobytes())
    return int.from_bytes(digest.digest(), "little")
