"""From prompts and candidates to plain text: what is read first, and the pieces of what is said."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from os.path import commonprefix
from typing import Any

from jinja2 import TemplateError

from diffpo.core.refusal import Refusal
from diffpo.text.data.completions import Candidate, Completion, Message, Segment
from diffpo.text.data.messages import require_shown

Prompt = str | Sequence[Message]

BEGUN = "began with the token of the beginning of a sequence themselves, which was not added again"
ENDED = "ended with the token of the end of a sequence themselves, which was not added again"
OPENED = "follow the chat template's turn of an answer, which lacks what its generation prompt opens (a thought)"


@dataclass(frozen=True)
class WrittenCandidate:
    """One candidate as text.

    Attributes:
        ends: whether its last piece says itself where it ends; if not, the end of sequence follows.
        notes: what was done to it.
    """

    prompt: str
    completion: Completion
    ends: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """How conversations are written: by the tokenizer's chat template.

    Plain texts are written as they are; as soon as prompt or candidate is a list of messages, the template is used.
    The loss hears what the template makes of the assistant's messages, without the white space after them. Where a
    generation prompt opens what an answer's turn does not have (a thought), the answer follows what both have.

    Args:
        tokenizer: with its template, and its end of a sequence.
        tools: what the assistant may call, as the template shows it.
    """

    tokenizer: Any
    tools: Sequence[Mapping[str, Any]] = ()

    def __call__(self, prompt: Prompt, candidate: Candidate) -> WrittenCandidate:
        """Prompt and candidate as text.

        Raises:
            Refusal: if the template is missing, cannot write these messages, leaves out what they say or the tools, or
                rewrites earlier ones.
        """
        if isinstance(prompt, str) and isinstance(candidate, str | Completion):
            if self.tools:
                raise Refusal("There are tools and a plain text, which no template shows; set data.tools to null.")
            return self.plain(prompt, Completion((Segment(candidate),)) if isinstance(candidate, str) else candidate)
        before: list[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if isinstance(candidate, Completion):
            return self.marked(before, candidate)
        return self.turns(
            before, [{"role": "assistant", "content": candidate}] if isinstance(candidate, str) else list(candidate)
        )

    def plain(self, prompt: str, completion: Completion) -> WrittenCandidate:
        """Without a template; what was written by one beforehand may say itself where it begins and ends."""
        text, first = completion.text, self.tokenizer.bos_token or ""
        begin, end = len(first) * text.startswith(first), len(without_end(text, self.tokenizer.eos_token))
        notes = (BEGUN,) * bool(begin) + (ENDED,) * (end < len(text))
        if not notes:
            return WrittenCandidate(prompt, completion, ends=False)
        starts = accumulate((len(segment.text) for segment in completion.segments), initial=0)
        kept = (
            replace(segment, text=segment.text[max(0, begin - start) : max(0, end - start)])
            for segment, start in zip(completion.segments, starts, strict=False)
        )
        return WrittenCandidate(prompt, Completion(tuple(kept)), ends=False, notes=notes)

    def turns(self, before: list[Message], said: list[Message]) -> WrittenCandidate:
        """A conversation; each message of the assistant is a part."""
        self.require_tools_shown(before)
        opening = done = "" if said[0]["role"] == "assistant" else self.written(before)
        segments, notes, turn = list[Segment](), list[str](), 0
        for i, message in enumerate(said):
            if message["role"] != "assistant":
                continue
            turn += 1
            messages = [*before, *said[: i + 1]]
            read, whole, opened = self.answered(messages, turn)
            heard, spoken = self.onward(done, read, turn), self.onward(read, whole, turn)
            require_shown(messages[:-1], read)
            require_shown([message], read, spoken)
            if i == 0:
                opening, heard = read, ""
            kept, ended = ended_once(spoken.rstrip(), message["content"], self.tokenizer.eos_token)
            notes += [OPENED] * opened + [ENDED] * ended
            segments += [Segment(heard, scored=False, part=0), Segment(kept, part=turn)]
            segments.append(Segment(spoken[len(spoken.rstrip()) :], scored=False, part=0))
            done = whole
        if not turn:
            raise Refusal(
                f"A conversation has no message of the assistant (roles: {[m['role'] for m in said]}), so there is "
                "nothing to score; name another column, or drop such rows."
            )
        scored = Completion(tuple(segment for segment in segments[:-1] if segment.text))
        return WrittenCandidate(opening, scored, ends=True, notes=tuple(dict.fromkeys(notes)))

    def marked(self, before: list[Message], completion: Completion) -> WrittenCandidate:
        """A completion in pieces as one message of the assistant; what is added goes with its neighbor."""
        text = completion.text
        said = self.turns(before, [{"role": "assistant", "content": text}])
        whole = said.completion.text
        head, found, tail = whole.partition(text)
        if not found:
            raise Refusal(
                f"The chat template changes the completion {text[:40]!r}..., so its parts cannot be found; strip "
                "white space at its ends, or set base.chat_template."
            )
        first, *rest = completion.segments
        pieces = [replace(first, text=head + first.text), *rest]
        return replace(said, completion=Completion((*pieces, replace(pieces[-1], text=tail))))

    def answered(self, messages: list[Message], turn: int) -> tuple[str, str, bool]:
        """What is read before the last message is said, all with it, and whether the generation prompt opens more."""
        read, whole = self.written(messages[:-1], answers=True), self.written(messages)
        if whole.startswith(read):
            return read, whole, False
        # What the turn of an answer begins with, whatever the answer: that of two which have no letter alike.
        others = [self.written([*messages[:-1], {"role": "assistant", "content": x}]) for x in ("a", "b")]
        shared = commonprefix([read, whole, *others])
        self.onward(self.written(messages[:-1]), shared, turn)
        return shared, whole, True

    def onward(self, before: str, whole: str, turn: int) -> str:
        """What the longer text adds to the shorter one."""
        if not whole.startswith(before):
            alone = ", or train on the last turn alone (prompt and answer)" if turn > 1 else ""
            raise Refusal(
                "The chat template writes earlier turns anew when later ones follow, so they cannot be told apart; "
                f"name one that does not in base.chat_template{alone}."
            )
        return whole[len(before) :]

    def require_tools_shown(self, before: list[Message]) -> None:
        if self.tools and self.written(before) == replace(self, tools=()).written(before):
            raise Refusal(
                "The chat template does not show the tools that the data have; name one that does in "
                "base.chat_template, or set data.tools to null."
            )

    def written(self, messages: list[Message], answers: bool = False) -> str:
        """Messages in the template's words.

        Args:
            answers: whether the assistant is about to answer.
        """
        if self.tokenizer.chat_template is None:
            raise Refusal(
                "The data are messages, and the tokenizer has no chat template; set base.chat_template, name a chat "
                "model, or give plain texts."
            )
        tools = list(self.tools) or None
        try:
            return self.tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=answers
            )
        # Templates that take other contents raise TypeErrors, several of them without a default ValueErrors.
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(str(message["role"]) for message in messages)
            raise Refusal(
                f"The chat template cannot write messages of {roles}: {error}; change them, or set base.chat_template."
            ) from error


def without_end(text: str, end: str) -> str:
    """Without the ends of a sequence that a text closes with, and the white space after them."""
    return re.sub(rf"(?:{re.escape(end)}\s*)+$", "", text)


def ended_once(turn: str, content: Any, end: str) -> tuple[str, bool]:
    """A turn whose content says itself where it ends with one such end, and whether there were more."""
    if not isinstance(content, str) or without_end(content, end) == content:
        return turn, False
    once = without_end(turn, end) + end
    return once, once != turn
