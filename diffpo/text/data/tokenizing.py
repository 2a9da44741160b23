"""Text to tokens that know whether they are scored, and to which part they belong."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, NamedTuple

from torch import Tensor

from diffpo.core.refusal import Refusal
from diffpo.text.data.chat import BEGUN, ChatTemplate, Prompt, WrittenCandidate
from diffpo.text.data.completions import Candidate
from diffpo.text.data.messages import require_texts

APART = "completions were split into tokens apart from their prompt, because one token would have held of both"
PARTS = "parts of completions have no token of their own"
UNKNOWN = "hold what the tokenizer has no token for"
PROBES = 64  # tokens whose texts are split again
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

    Args:
        known: tokens that the network knows; None does not check.

    Raises:
        Refusal: if it is not one, has no end of sequence, or tells no texts apart.
    """

    tokenizer: Any
    known: int | None = field(default=None, kw_only=True)

    def __post_init__(self):
        if not self.tokenizer.is_fast:
            raise Refusal(f"{type(self.tokenizer).__name__} cannot say where its tokens stand; name a fast tokenizer.")
        if self.tokenizer.eos_token_id is None:
            raise Refusal("The tokenizer has no token for the end of a sequence; set its eos_token.")
        require_vocabulary(self.tokenizer)
        self.require_known([self.pad])

    @property
    def pad(self) -> int:
        """What fills up a batch; it is masked, so any token would do."""
        return self.tokenizer.eos_token_id if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    def __call__(self, prompt: Prompt, candidate: Candidate, tools: Sequence[Mapping[str, Any]] = ()) -> Tokens:
        """Tokens of a prompt, those of its completion, and the end of the sequence.

        Args:
            tools: that the prompt shows, by the chat template.

        Raises:
            Refusal: if messages cannot be written as they are (`ChatTemplate`) or have parts that are no texts, or if
                the network does not know a token.
        """
        for messages in (prompt, candidate):
            require_texts(messages)
        return self.split(ChatTemplate(self.tokenizer, tools)(prompt, candidate))

    def split(self, said: WrittenCandidate) -> Tokens:
        """Tokens of one candidate as text.

        Prompt and completion are split together, as the text that they are; if the prompt's own tokens then differ,
        which a model is given when it generates, they are split apart.
        """
        text, plain = said.completion.text, not said.ends
        read = self.encoded(said.prompt, special=plain)[0] or [self.first]
        together, offsets, begun = self.encoded(said.prompt + text, special=plain)
        begin, notes = len(said.prompt), [*said.notes, *[BEGUN] * begun]
        if together[: len(read)] == read:
            ids, offsets = together[len(read) :], offsets[len(read) :]
        else:
            ids, offsets, _ = self.encoded(text, special=False)
            begin, notes = 0, notes + [APART] * bool(said.prompt)
        segments = [segment for segment in said.completion.segments if segment.text]
        ends = list(accumulate(len(segment.text) for segment in segments))
        # A token belongs to the piece that its last character stands in: " a" begins with the space before the word.
        of = [min(bisect_left(ends, end - begin), len(segments) - 1) for _, end in offsets]
        notes += [PARTS] * sum(segment.scored and i not in of for i, segment in enumerate(segments))
        tokens = [Token(id, segments[i].scored, segments[i].part) for id, i in zip(ids, of, strict=True)]
        self.require_known([*read, *ids])
        if self.unknown in {*read, *ids}:
            notes.append(UNKNOWN)
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

    @property
    def unknown(self) -> int | None:
        """What stands for characters that no token has; None if that token has another meaning too."""
        tokenizer = self.tokenizer
        others = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        return None if tokenizer.unk_token_id in others else tokenizer.unk_token_id

    def require_known(self, ids: Sequence[int]) -> None:
        """Raise a Refusal if there is a token that the network does not know."""
        if self.known is not None and (last := max(ids)) >= self.known:
            raise Refusal(
                f"The tokenizer gives token {last} ({self.tokenizer.convert_ids_to_tokens(last)!r}), the network has "
                f"{self.known}; name a base whose tokenizer is its own."
            )

    def encoded(self, text: str, special: bool) -> tuple[list[int], list[tuple[int, int]], bool]:
        """Tokens, where they stand, and whether the text itself says that a sequence begins, which is not said twice.

        Args:
            special: whether the tokenizer may add what a sequence begins with; what it ends with is left out.
        """
        # Not verbose: what is too long is cut and counted, which the tokenizer cannot know.
        found = self.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
        ids, offsets = found["input_ids"], found["offset_mapping"]
        if special and ids and ids[-1] == self.tokenizer.eos_token_id and offsets[-1][0] == offsets[-1][1]:
            ids, offsets = ids[:-1], offsets[:-1]
        begun = ids[:2] == [self.tokenizer.bos_token_id] * 2
        return ids[begun:], offsets[begun:], begun


def require_vocabulary(tokenizer: Any) -> None:
    """Raise a Refusal if a tokenizer splits all texts alike: its vocabulary was not there when it was loaded."""
    vocabulary = tokenizer.get_vocab()
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ordinary = sorted(id for id in vocabulary.values() if id not in special)
    texts = [tokenizer.decode([id]) for id in ordinary[:: max(1, len(ordinary) // PROBES)]]
    found = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    if len({tuple(id for id in ids if id not in special) for ids in found}) < 2:
        raise Refusal(
            f"The tokenizer of {tokenizer.name_or_path} tells no texts apart ({len(vocabulary)} tokens, "
            f"{len(ordinary)} of them ordinary ones); fetch its files again (tokenizer.json, vocabulary)."
        )


def count_notes(tokens: list[Tokens]) -> dict[str, int]:
    """What was done, and how often."""
    return dict(Counter(note for each in tokens for note in each.notes))
