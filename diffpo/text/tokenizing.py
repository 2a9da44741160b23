"""Text to tokens that know whether they are scored, and to which part they belong."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

from torch import Tensor

from diffpo.refusal import Refusal
from diffpo.text.chat import Chat, Prompt
from diffpo.text.completions import Candidate

APART = "completions were split into tokens apart from their prompt, because one token would have held of both"
PARTS = "parts of completions have no token of their own"
PROMPTS = "prompts were cut on the left"
COMPLETIONS = "completions were cut on the right"


class Token(NamedTuple):
    id: int
    scored: bool
    part: int


@dataclass(frozen=True)
class Tokens:
    """One candidate.

    Attributes:
        prompt: tokens that are read, before the first that may be scored.
        completion: the others.
        notes: what was done to it.
    """

    prompt: tuple[int, ...]
    completion: tuple[Token, ...]
    notes: tuple[str, ...] = ()

    def cut(self, prompt: int, completion: int, first: int | None = None) -> "Tokens":
        """At most so many tokens: the last of the prompt, the first of the completion.

        Args:
            first: token that a prompt which begins with it keeps, e.g. that of the beginning of the sequence.
        """
        kept, notes = self.prompt, self.notes
        if len(kept) > prompt:
            kept, notes = kept[len(kept) - prompt :], (*notes, PROMPTS)
            if self.prompt[0] == first:
                kept = (self.prompt[0], *kept[1:])
        if len(self.completion) > completion:
            notes = (*notes, COMPLETIONS)
        return replace(self, prompt=kept, completion=self.completion[:completion], notes=notes)


@dataclass(frozen=True, eq=False)
class Tokenizing:
    """A fast tokenizer with its chat template.

    Raises:
        Refusal: if it is not one, or has no end of sequence.
    """

    tokenizer: Any

    def __post_init__(self):
        if not self.tokenizer.is_fast:
            raise Refusal(f"{type(self.tokenizer).__name__} cannot say where its tokens stand; name a fast tokenizer.")
        if self.tokenizer.eos_token_id is None:
            raise Refusal("The tokenizer has no token for the end of a sequence; set its eos_token.")

    @property
    def pad(self) -> int:
        """What fills up a batch; it is masked, so any token would do."""
        return self.tokenizer.eos_token_id if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    def __call__(self, prompt: Prompt, candidate: Candidate) -> Tokens:
        """Tokens of a prompt, those of its completion, and the end of the sequence.

        Both are split together, as the text that they are; if the prompt's own tokens then differ, which a model is
        given when it generates, they are split apart.
        """
        said = Chat(self.tokenizer)(prompt, candidate)
        text, plain = said.completion.text, not said.ends
        read = self.encoded(said.prompt, special=plain)[0] or [self.first]
        together, offsets = self.encoded(said.prompt + text, special=plain)
        begin, notes = len(said.prompt), list[str]()
        if together[: len(read)] == read:
            ids, offsets = together[len(read) :], offsets[len(read) :]
        else:
            ids, offsets = self.encoded(text, special=False)
            begin, notes = 0, [APART] if said.prompt else []
        segments = [segment for segment in said.completion.segments if segment.text]
        ends = list(accumulate(len(segment.text) for segment in segments))
        # A token belongs to the piece that its last character stands in: " a" begins with the space before the word.
        of = [min(bisect_left(ends, end - begin), len(segments) - 1) for _, end in offsets]
        notes += [PARTS] * sum(segment.scored and i not in of for i, segment in enumerate(segments))
        tokens = [Token(id, segments[i].scored, segments[i].part) for id, i in zip(ids, of, strict=True)]
        if plain:
            last = segments[-1] if segments else None
            tokens.append(Token(self.tokenizer.eos_token_id, last is None or last.scored, last.part if last else 1))
        return Tokens(tuple(read), tuple(tokens), tuple(notes))

    def inputs(self, tokens: Sequence[Tokens], size: int) -> dict[str, Tensor]:
        """What the network is given beside tokens, of sequences that are padded to `size`; of texts, nothing."""
        return {}

    @property
    def first(self) -> int:
        """What stands before a completion without prompt: the beginning of the sequence, or the end of another."""
        tokenizer = self.tokenizer
        return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id

    def encoded(self, text: str, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokens and where they stand.

        Args:
            special: whether the tokenizer may add what a sequence begins with; what it ends with is left out.
        """
        found = self.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        ids, offsets = found["input_ids"], found["offset_mapping"]
        if special and ids and ids[-1] == self.tokenizer.eos_token_id and offsets[-1][0] == offsets[-1][1]:
            ids, offsets = ids[:-1], offsets[:-1]
        return ids, offsets


def counted(tokens: list[Tokens]) -> dict[str, int]:
    """What was done, and how often."""
    return dict(Counter(note for each in tokens for note in each.notes))
