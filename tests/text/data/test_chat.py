import pytest
from tiny_templates import BARE, CHATML, TEMPLATES, THINKING, TOOLS, assistant, templated, turn, user
from tiny_text import tokenizer

from diffpo.core.refusal import Refusal
from diffpo.text.data.chat import BEGUN, ENDED, OPENED, ChatTemplate
from diffpo.text.data.completions import Completion, Segment


@pytest.fixture
def chat():
    return ChatTemplate(tokenizer())


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
        ChatTemplate(bare)([user("is it")], "yes")


def test_a_template_that_rewrites_earlier_turns_is_refused():
    forgetful = tokenizer()
    forgetful.chat_template = "{% for m in messages[-2:] %}{{ m['content'] }}.{% endfor %}"
    with pytest.raises(Refusal, match="writes earlier turns anew"):
        ChatTemplate(forgetful)([user("a")], [assistant("b"), user("c"), assistant("d")])


def test_a_template_that_refuses_a_role_says_so_in_one_line():
    strict = tokenizer()
    strict.chat_template = "{{ raise_exception('no system') }}"
    with pytest.raises(Refusal, match="cannot write messages of user: no system"):
        ChatTemplate(strict)([user("a")], "b")


def test_a_template_that_changes_a_completion_hides_its_parts(chat):
    chat.tokenizer.chat_template = chat.tokenizer.chat_template.replace("m['content']", "m['content']|trim")
    with pytest.raises(Refusal, match="changes the completion 'yes '"):
        chat([user("a")], Completion((Segment("yes "),)))


def test_a_conversation_needs_the_assistant(chat):
    with pytest.raises(Refusal, match="no message of the assistant"):
        chat("is it", [user("hello")])


def test_several_templates_need_one_that_is_named(chat):
    chat.tokenizer.chat_template = {"rag": "x", "tool_use": "y"}
    with pytest.raises(Refusal, match=r"multiple chat templates.*set base\.chat_template"):
        chat([user("a")], "b")


def test_a_template_that_cannot_take_a_content_says_so_in_one_line():
    joining = ChatTemplate(templated("{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}{% endfor %}"))
    with pytest.raises(Refusal, match=r"cannot write messages of user, assistant: .*; change them, or set base\."):
        joining([user("a")], [assistant(None, tool_calls=[{"name": "f"}])])


def test_an_answer_follows_its_turn_where_the_generation_prompt_opens_a_thought_that_it_has_not():
    thinking = ChatTemplate(templated(THINKING))
    said = thinking([user("is it")], "yes")
    assert said.prompt == "<s>[user]is it[assistant]"
    assert scored(said) == [("yes</s>", 1)]
    assert said.notes == (OPENED,)
    assert thinking([user("is it")], "<no>").prompt == said.prompt


def test_each_turn_follows_where_its_thought_was_not_opened():
    said = ChatTemplate(templated(THINKING))([user("a")], [assistant("b"), user("c"), assistant("d")])
    assert scored(said) == [("b</s>", 1), ("d</s>", 2)]
    assert said.prompt + said.completion.text == "<s>[user]a[assistant]b</s>[user]c[assistant]d</s>"


def test_a_thought_that_the_generation_prompt_opens_is_read_where_answers_have_it():
    kept = ChatTemplate(templated(THINKING.replace(".split('</think>')[-1]", "")))
    said = kept([user("is it")], "<think>\nwell</think>yes")
    assert said.prompt == "<s>[user]is it[assistant]<think>\n"
    assert scored(said) == [("well</think>yes</s>", 1)]
    assert said.notes == ()


@pytest.mark.parametrize(
    "template", [THINKING, THINKING.replace("<think>\n", "")], ids=["opens a thought", "does not"]
)
def test_a_thought_that_a_template_drops_is_refused(template):
    with pytest.raises(Refusal, match="leaves out what the assistant says: '<think>well</think>yes'.*chat_template"):
        ChatTemplate(templated(template))([user("is it")], "<think>well</think>yes")


def test_a_thought_in_a_field_that_a_template_drops_is_refused():
    with pytest.raises(Refusal, match="leaves out what the assistant says: 'well'"):
        ChatTemplate(templated(CHATML))([user("is it")], [assistant("yes", reasoning_content="well")])


def test_a_message_that_a_template_drops_is_refused():
    deaf = "{% for m in messages if m['role'] != 'system' %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    with pytest.raises(Refusal, match="leaves out what the system says: 'short'"):
        ChatTemplate(templated(deaf))([turn("system", "short"), user("is it")], "yes")


def test_a_template_that_rewrites_the_only_question_is_not_told_to_train_on_the_last_turn():
    fickle = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(
        Refusal, match=r"writes earlier turns anew .*; name one that does not in base\.chat_template\.$"
    ):
        ChatTemplate(templated(fickle))([user("a")], "b")


def test_tools_are_shown_by_a_template_that_does():
    tools = [{"name": "f"}]
    assert (
        ChatTemplate(templated(TOOLS), tools)([user("a")], "b").prompt
        == '[tools][{"name": "f"}][user]a</s>[assistant]'
    )
    for template in set(TEMPLATES.values()) - {TOOLS}:
        with pytest.raises(Refusal, match=r"does not show the tools .*set data\.tools to null"):
            ChatTemplate(templated(template), tools)([user("a")], "b")


def test_plain_texts_show_no_tools():
    with pytest.raises(Refusal, match=r"a plain text, which no template shows; set data\.tools to null"):
        ChatTemplate(templated(TOOLS), [{"name": "f"}])("a", "b")


def test_a_candidate_that_goes_on_after_an_answer_scores_its_answers_alone():
    said = ChatTemplate(templated(CHATML))([user("a"), assistant("b")], [user("c"), assistant("d")])
    assert said.prompt == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    assert scored(said) == [("d<|im_end|>", 1)]


@pytest.mark.parametrize("template", [CHATML, BARE, THINKING])
@pytest.mark.parametrize("more", ["{}", "{}{}", "{}\n", "{} {}\n "])
def test_an_end_that_messages_have_themselves_is_there_once(template, more):
    chat = ChatTemplate(templated(template))
    end = chat.tokenizer.eos_token
    said = chat([user("a")], [assistant("b" + more.replace("{}", end))])
    assert scored(said)[0][0].endswith("b" + end)
    assert said.notes[-1] == ENDED


def test_an_end_that_plain_texts_have_themselves_is_left_to_the_sequence(chat):
    pieces = Completion(
        (Segment("<s>", part=0), Segment("yes", part=1), Segment(" the</s> ", part=2), Segment("</s>\n", part=3))
    )
    said = chat("is it", pieces)
    assert [(segment.text, segment.part) for segment in said.completion.segments if segment.text] == [
        ("yes", 1),
        (" the", 2),
    ]
    assert (said.ends, said.notes) == (False, (BEGUN, ENDED))
