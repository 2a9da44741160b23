"""Messages as data sets hold them: told from texts, and written in one way."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffpo.core.refusal import Refusal
from diffpo.text.data.completions import Candidate, Completion, Message, join_spoken

# How messages begin that were turned into a text, by JSON or by Python's print, and what they say of a speaker.
WRITTEN = re.compile(r"""\s*["']?\s*\[?\s*\{\s*\\?["'](?:role|content|from|value|name|id)\\?["']\s*:""")
SPEAKER = re.compile(
    r"""\\?["'](?:role|from)\\?["']\s*:\s*\\?["'](?:system|developer|user|human|assistant|gpt|model|tool)\\?["']"""
)
ASKING = ("system", "developer", "user")
THOUGHTS = ("reasoning_content", "reasoning", "thinking")


def is_conversation(found: Any) -> bool:
    if isinstance(found, str | bytes) or not isinstance(found, Sequence) or not found:
        return False
    return all(isinstance(message, Mapping) and {"role", "content"} <= message.keys() for message in found)


def holds_messages(text: str) -> bool:
    """Whether a text is messages that were written as one, as JSON or as Python prints them."""
    return WRITTEN.match(text) is not None and SPEAKER.search(text) is not None


def plain_messages(messages: Sequence[Message]) -> list[Message]:
    """The same messages without the nulls that tables fill in, and with content in parts as one text if all are texts.

    Raises:
        Refusal: if a role is no text, a content neither null, a text nor a list of parts, or if calls of tools are
            no list of structs.
    """
    return [{**without_nulls(message), "content": plain_content(message)} for message in messages]


def plain_content(message: Message) -> Any:
    role, content, calls = message["role"], message["content"], message.get("tool_calls") or []
    if not isinstance(role, str):
        raise Refusal(f"The role of a message is {role!r} ({type(role).__name__}), not a text; fix the data.")
    if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):
        raise Refusal(f"The tool_calls of a message are {str(calls)[:60]!r}, not a list of structs; fix the data.")
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(part, Mapping) for part in content):
        parts = without_nulls(content)
        texts = all(kind_of(part) == "text" for part in parts)
        return "".join(part["text"] for part in parts) if texts else parts
    raise Refusal(
        f"The content of a message of {role} is {str(content)[:60]!r} ({type(content).__name__}), neither a text nor "
        "a list of parts with type and text; fix the data."
    )


def kind_of(part: Mapping[str, Any]) -> str:
    """What a part of a content is: "text" only if it has one."""
    kind = str(part.get("type", "text"))
    return kind if kind != "text" or isinstance(part.get("text"), str) else "text without text"


def require_texts(text: Candidate) -> None:
    """Raise a Refusal if a message has parts that are no texts, for a model that reads nothing else."""
    for message in () if isinstance(text, str | Completion) else text:
        if isinstance(message["content"], list):
            kinds = [kind_of(part) for part in message["content"]]
            other = next(kind for kind in kinds if kind != "text")
            raise Refusal(
                f"A message of {message['role']} has a part of type {other!r}, which is no text; take such parts or "
                "such rows out of the data, or name a base that reads them."
            )


def require_own_turns(prompt: Candidate, candidate: Candidate) -> None:
    """Raise a Refusal if a candidate would ask again what its prompt has asked."""
    if isinstance(candidate, str | Completion):
        return
    asked: Any = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    role = candidate[0]["role"]
    again = (role, join_spoken(candidate[:1]).split()) == (asked[0]["role"], join_spoken(asked[:1]).split())
    if role in ASKING[:2] or again or (role == "user" and asked[-1]["role"] != "assistant"):
        raise Refusal(
            f"A candidate repeats its prompt, or goes on asking (its first message is of {role}); use "
            "diffpo.text.Conversations for whole conversations, or let such messages end the prompt."
        )


def require_shown(messages: Sequence[Message], before: str, after: str = "") -> None:
    """Raise a Refusal if a chat template left out what messages say; of former answers it may leave out thoughts.

    Args:
        before, after: what it wrote; the only message of the assistant ends in the latter.
    """
    read, spoken = squeeze_blanks(before), squeeze_blanks(after)
    for message in messages:
        if message["role"] not in ASKING and not after:
            continue
        for said in map(squeeze_blanks, list_words(message)):
            if (read + spoken).find(said, max(0, len(read) - len(said) + 1) if after else 0) < 0:
                raise Refusal(
                    f"The chat template leaves out what the {message['role']} says: {said[:60]!r}; name one that "
                    "shows it in base.chat_template, or take it out of the data."
                )


def squeeze_blanks(text: str) -> str:
    """Without white space, which templates change."""
    return "".join(text.split())


def list_words(message: Message) -> Iterator[str]:
    """What a message says that a chat template has to show: its text, its thought, and the functions it calls."""
    for key in ("content", *THOUGHTS):
        if isinstance(message.get(key), str):
            yield message[key]
    for call in message.get("tool_calls", ()):
        yield str(call.get("function", call).get("name", ""))


def read_tools(found: Any) -> list[Mapping[str, Any]]:
    """What a cell of tools holds: a list of structs, as such or as JSON; of null, none.

    Raises:
        Refusal: if it holds something else.
    """
    wrong = Refusal(
        f"Its tools are {str(found)[:60]!r} ({type(found).__name__}), not a list of structs; fix the data."
    )
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError as error:
            raise wrong from error
    if found is not None and not (isinstance(found, list) and all(isinstance(tool, Mapping) for tool in found)):
        raise wrong
    return without_nulls(found or [])


def without_nulls(found: Any) -> Any:
    """Without the keys that are null: in a table, each record has the keys of all others."""
    if isinstance(found, Mapping):
        return {key: without_nulls(value) for key, value in found.items() if value is not None}
    if isinstance(found, Sequence) and not isinstance(found, str | bytes):
        return [without_nulls(value) for value in found]
    return found
