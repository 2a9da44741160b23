import pytest
from tiny_text import tokenizer

from diffpo.refusal import Refusal
from diffpo.text.chat import Chat
from diffpo.text.completions import Completion, Segment


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


@pytest.fixture
def chat():
    return Chat(tokenizer())


def scored(said) -> list[tuple[str, int]]:
    return [(segment.text, segment.part) for segment in said.completion.segments if segment.scored]


def test_plain_texts_stay_as_they_are(chat):
    said = chat("is it", "yes")
    assert (said.prompt, said.completion.text, said.ends) == ("is it", "yes", False)


def test_an_answer_is_what_the_template_adds_to_the_opening_of_the_turn(chat):
    said = chat([user("is it")], "yes")
    assert said.prompt == "<s><u>is it\n<a>"
    assert scored(said) == [("yes</s>", 1)]
    assert said.ends


def test_a_text_an_answer_and_a_message_are_written_alike(chat):
    assert (
        chat("is it", [assistant("yes")]) == chat([user("is it")], "yes") == chat([user("is it")], [assistant("yes")])
    )


def test_each_turn_of_the_assistant_is_a_part_and_what_others_say_is_not_scored(chat):
    said = chat([user("a")], [assistant("b"), user("c"), assistant("d")])
    assert scored(said) == [("b</s>", 1), ("d</s>", 2)]
    assert said.prompt + said.completion.text == "<s><u>a\n<a>b</s>\n<u>c\n<a>d</s>"


def test_pieces_keep_their_parts_inside_the_template(chat):
    marked = Completion((Segment("yes", part=0), Segment(" the", part=2)))
    assert scored(chat([user("is it")], marked)) == [("yes", 0), (" the", 2), ("</s>", 2)]


def test_messages_without_a_template_are_refused():
    bare = tokenizer()
    bare.chat_template = None
    with pytest.raises(Refusal, match=r"no chat template; set base\.chat_template"):
        Chat(bare)([user("is it")], "yes")


def test_a_template_that_rewrites_earlier_turns_is_refused():
    forgetful = tokenizer()
    forgetful.chat_template = "{% for m in messages[-2:] %}{{ m['content'] }}.{% endfor %}"
    with pytest.raises(Refusal, match="writes earlier turns anew"):
        Chat(forgetful)([user("a")], [assistant("b"), user("c"), assistant("d")])


def test_a_template_that_refuses_a_role_says_so_in_one_line():
    strict = tokenizer()
    strict.chat_template = "{{ raise_exception('no system') }}"
    with pytest.raises(Refusal, match="cannot write messages of user: no system"):
        Chat(strict)([user("a")], "b")


def test_a_template_that_changes_a_completion_hides_its_parts(chat):
    chat.tokenizer.chat_template = chat.tokenizer.chat_template.replace("m['content']", "m['content']|trim")
    with pytest.raises(Refusal, match="changes the completion 'yes '"):
        chat([user("a")], Completion((Segment("yes "),)))


def test_candidates_that_repeat_their_prompt_are_refused(chat):
    with pytest.raises(Refusal, match=r"repeats its prompt.*Conversations"):
        chat("is it", [user("is it"), assistant("yes")])


def test_a_conversation_needs_the_assistant(chat):
    with pytest.raises(Refusal, match="no message of the assistant"):
        chat("is it", [user("hello")])
