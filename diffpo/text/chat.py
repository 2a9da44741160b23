"""From prompts and candidates to plain text: what is read first, and the pieces of what is said."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import TemplateError

from diffpo.refusal import Refusal
from diffpo.text.completions import Candidate, Completion, Message, Segment

Prompt = str | Sequence[Message]


@dataclass(frozen=True)
class Said:
    """One candidate as text.

    Attributes:
        ends: whether its last piece says itself where it ends; if not, the end of sequence follows.
    """

    prompt: str
    completion: Completion
    ends: bool


@dataclass(frozen=True, eq=False)
class Chat:
    """How conversations are written: by the tokenizer's chat template.

    Plain texts are written as they are; as soon as prompt or candidate is a list of messages, the template is used.
    The loss hears what the template makes of the assistant's messages, without the white space after them.

    Args:
        tokenizer: with its template.
    """

    tokenizer: Any

    def __call__(self, prompt: Prompt, candidate: Candidate) -> Said:
        """Prompt and candidate as text.

        Raises:
            Refusal: if the template is missing, cannot write these messages, or rewrites earlier ones.
        """
        if isinstance(prompt, str) and isinstance(candidate, str):
            return Said(prompt, Completion((Segment(candidate),)), ends=False)
        if isinstance(prompt, str) and isinstance(candidate, Completion):
            return Said(prompt, candidate, ends=False)
        before: list[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if isinstance(candidate, Completion):
            return self.marked(before, candidate)
        said: list[Message] = (
            [{"role": "assistant", "content": candidate}] if isinstance(candidate, str) else list(candidate)
        )
        if said[0] == before[0]:
            raise Refusal(
                "A candidate repeats its prompt; use diffpo.text.sources.Conversations for whole conversations."
            )
        return self.turns(before, said)

    def turns(self, before: list[Message], said: list[Message]) -> Said:
        """A conversation; each message of the assistant is a part."""
        opening = self.written(before, answers=True)
        segments, done, turn = list[Segment](), opening, 0
        for i, message in enumerate(said):
            messages = [*before, *said[: i + 1]]
            if message["role"] != "assistant":
                continue
            turn += 1
            done, heard = self.onward(done, self.written(messages[:-1], answers=True))
            whole, spoken = self.onward(done, self.written(messages))
            kept = spoken.rstrip()
            segments += [Segment(heard, scored=False, part=0), Segment(kept, part=turn)]
            done, tail = whole, spoken[len(kept) :]
            segments.append(Segment(tail, scored=False, part=0))
        if not turn:
            raise Refusal(
                f"A conversation has no message of the assistant (roles: {[m['role'] for m in said]}), so there is "
                "nothing to score; name another column, or drop such rows."
            )
        return Said(opening, Completion(tuple(segment for segment in segments[:-1] if segment.text)), ends=True)

    def marked(self, before: list[Message], completion: Completion) -> Said:
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

    def onward(self, before: str, whole: str) -> tuple[str, str]:
        """The longer text, and what it adds to the shorter one."""
        if not whole.startswith(before):
            raise Refusal(
                "The chat template writes earlier turns anew when later ones follow, so they cannot be told apart; "
                "name one that does not in base.chat_template, or train on the last turn alone (prompt and answer)."
            )
        return whole, whole[len(before) :]

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
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answers)
        except TemplateError as error:
            roles = ", ".join(str(message["role"]) for message in messages)
            raise Refusal(f"The chat template cannot write messages of {roles}: {error}; change them.") from error
