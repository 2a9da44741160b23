import json
import math
from random import Random

import pytest
from tiny_templates import assistant, turn, user

from diffpo.core.refusal import Refusal
from diffpo.text.data.completions import Completion, Segment
from diffpo.text.data.messages import (
    holds_messages,
    is_conversation,
    plain_messages,
    read_tools,
    require_own_turns,
    require_shown,
    require_texts,
    without_nulls,
)

ASK, YES, SYSTEM = user("Is it?"), assistant("Yes."), turn("system", "Be brief.")
CHATS = [[ASK], [YES], [SYSTEM, ASK, YES], [{"content": "x" * 500, "role": "user"}], [{"from": "human", "value": "a"}]]
WAYS = {
    "json": json.dumps,
    "indented": lambda chat: json.dumps(chat, indent=2),
    "printed": repr,
    "one message": lambda chat: json.dumps(chat[0]),
    "twice": lambda chat: json.dumps(json.dumps(chat)),
    "an array's print": lambda chat: "[" + "\n ".join(map(repr, chat)) + "]",
    "with space": lambda chat: f"\n {json.dumps(chat)}",
}
TEXTS = [
    "",
    "Is it?",
    "\n\nHuman: Hi\n\nAssistant: yes",
    "[1, 2]",
    '{"name": "Ann", "role": "captain"}',
    '{"model": "x", "messages": [{"role": "user", "content": "Hi"}]}',
    'Send this:\n[{"role": "user", "content": "Hi"}]',
    "<|im_start|>user\nHi<|im_end|>",
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chat", CHATS)
def test_messages_that_were_written_as_a_text_are_known(chat, way):
    assert holds_messages(WAYS[way](chat))


@pytest.mark.parametrize("text", TEXTS)
def test_other_texts_are_no_messages(text):
    assert not holds_messages(text)


@pytest.mark.parametrize("seed", range(8))
def test_content_in_parts_is_the_text_that_its_parts_make(seed):
    rng = Random(seed)
    texts = ["".join(rng.choices("ab \n", k=rng.randrange(30))) for _ in range(4)]

    def in_parts(text: str) -> list[dict]:
        bounds = sorted([0, len(text), *rng.choices(range(len(text) + 1), k=3)])
        kinds = [{"type": "text"}, {"type": "text", "image": None}, {}]
        pieces = [text[begin:end] for begin, end in zip(bounds, bounds[1:], strict=False)]
        return [{**rng.choice(kinds), "text": piece} for piece in pieces]

    assert plain_messages([user(in_parts(text)) for text in texts]) == [user(text) for text in texts]


def test_keys_that_a_table_fills_with_null_are_left_out_and_null_contents_stay():
    call = {"name": "f", "arguments": {"a": 1, "b": None}}
    filled = [user("a", tool_calls=None), assistant(None, tool_calls=[call], name=None)]
    assert plain_messages(filled) == [
        user("a"),
        assistant(None, tool_calls=[{"name": "f", "arguments": {"a": 1}}]),
    ]


@pytest.mark.parametrize("content", [7, math.nan, True, b"a", {"text": "a"}, ["a"], [["a"]]], ids=repr)
def test_a_content_is_a_text_or_parts(content):
    with pytest.raises(Refusal, match=f"content of a message of user is .*{type(content).__name__}.*neither a text"):
        plain_messages([user(content)])


@pytest.mark.parametrize(("message", "said"), [(turn(7, "a"), "role of a message is 7"), (turn(None, "a"), "is None")])
def test_a_role_is_a_text(message, said):
    with pytest.raises(Refusal, match=said):
        plain_messages([message])


@pytest.mark.parametrize("calls", ['[{"name": "f"}]', ["f"], 3, {"name": "f"}])
def test_calls_of_tools_are_structs(calls):
    with pytest.raises(Refusal, match="tool_calls of a message are .*not a list of structs"):
        plain_messages([assistant("a", tool_calls=calls)])


@pytest.mark.parametrize("kind", ["image", "image_url", "input_audio", "video", "thinking"])
def test_a_part_that_is_no_text_is_refused_by_its_type(kind):
    text = {"type": "text", "text": "a"}
    plain = plain_messages([user([text, {"type": kind, kind: "x"}])])
    with pytest.raises(Refusal, match=f"message of user has a part of type '{kind}', which is no text"):
        require_texts(plain)
    require_texts(plain_messages([user([text, text])]))
    require_texts("a")


def test_a_part_of_text_without_text_is_none():
    with pytest.raises(Refusal, match="type 'text without text'"):
        require_texts(plain_messages([user([{"type": "text", "text": None}])]))


ASKED = {"text": "Is it?", "messages": [ASK], "with system": [SYSTEM, ASK], "nothing": "", "longer": [ASK, YES, ASK]}
AGAIN = {
    "the question": [ASK, YES],
    "with a system message": [SYSTEM, ASK, YES],
    "with a developer message": [turn("developer", "x"), ASK, YES],
    "with an extra key": [user("Is it?", id=3), YES],
    "with white space": [user(" Is  it?\n"), YES],
    "another question": [user("Why?"), YES],
    "only the question": [ASK],
}


@pytest.mark.parametrize("prompt", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("candidate", AGAIN.values(), ids=AGAIN)
def test_a_candidate_that_asks_again_is_refused(prompt, candidate):
    with pytest.raises(Refusal, match=r"repeats its prompt, or goes on asking.*Conversations"):
        require_own_turns(prompt, candidate)


@pytest.mark.parametrize("prompt", ASKED.values(), ids=ASKED)
def test_an_answer_is_no_repetition(prompt):
    for candidate in (
        "Is it? Yes.",
        Completion((Segment("Is it?"),)),
        [YES],
        [turn("tool", "3"), YES],
        [YES, ASK, YES],
    ):
        require_own_turns(prompt, candidate)


def test_after_an_answer_the_user_may_ask_but_not_the_same_conversation_again():
    require_own_turns([ASK, YES], [user("Why?"), YES])
    with pytest.raises(Refusal, match="repeats its prompt"):
        require_own_turns([ASK, YES], [user("Is it? ", id=1), YES])


def test_what_a_template_leaves_out_is_named():
    require_shown([SYSTEM, ASK], "Be brief. | Is\nit?")
    with pytest.raises(Refusal, match=r"leaves out what the system says: 'Bebrief\.'"):
        require_shown([SYSTEM, ASK], "Is it?")
    thought = assistant("Yes.", reasoning_content="Why not")
    require_shown([thought], "Is it? <think>Why", " not</think>Yes.")
    with pytest.raises(Refusal, match="'Whynot'"):
        require_shown([thought], "Is it? ", "Yes.")
    with pytest.raises(Refusal, match="'f'"):
        require_shown([assistant(None, tool_calls=[{"type": "function", "function": {"name": "f"}}])], "", "</s>")


def test_an_answer_that_stands_in_the_question_alone_was_left_out():
    with pytest.raises(Refusal, match="leaves out what the assistant says"):
        require_shown([assistant("it")], "Is it? ", "</s>")


def test_former_answers_may_lose_their_thoughts():
    require_shown([ASK, assistant("<think>x</think>Yes.")], "Is it? Yes.")


def test_tools_are_structs_or_the_same_as_json():
    tools = [{"name": "f", "parameters": {"a": None, "b": {"type": "string"}}}]
    known = [{"name": "f", "parameters": {"b": {"type": "string"}}}]
    assert read_tools(tools) == read_tools(json.dumps(tools)) == known
    assert read_tools(None) == read_tools([]) == read_tools("[]") == []


@pytest.mark.parametrize("wrong", ["f", "{}", 7, [7], {"name": "f"}, '["f"]'])
def test_other_tools_are_refused(wrong):
    with pytest.raises(Refusal, match=r"Its tools are .*not a list of structs"):
        read_tools(wrong)


def test_a_conversation_is_a_list_of_messages():
    assert is_conversation([ASK, YES])
    for other in ("ab", b"ab", [], None, 7, ASK, [[ASK]], [{"role": "user"}]):
        assert not is_conversation(other)


def test_nulls_are_left_out_of_structs_alone():
    assert without_nulls({"a": [1, None, {"b": None}], "c": None}) == {"a": [1, None, {}]}
