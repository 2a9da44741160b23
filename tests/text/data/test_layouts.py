import pytest
from datasets import Dataset

from diffpo.core.refusal import Refusal
from diffpo.text.data.layouts import Conversations


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ASK, YES, NO, WHY = turn("user", "a"), turn("assistant", "yes"), turn("assistant", "no"), turn("user", "why")


def row(record, **changed):
    return Conversations("x", **changed).row(0, record, lambda name: name)


def test_what_both_conversations_begin_with_is_the_prompt():
    found = row({"chosen": [ASK, YES], "rejected": [ASK, NO, WHY, YES]})
    assert found.prompts == ([ASK], [ASK])
    assert found.candidates == ([YES], [NO, WHY, YES])


def test_a_first_answer_that_both_share_belongs_to_the_prompt():
    assert row({"chosen": [ASK, YES, WHY, YES], "rejected": [ASK, YES, WHY, NO]}).prompts[0] == [ASK, YES, WHY]


def test_of_equal_conversations_the_prompt_ends_before_the_answer():
    assert row({"chosen": [ASK, YES], "rejected": [ASK, YES]}).candidates == ([YES], [YES])


def test_of_a_single_conversation_the_prompt_ends_before_the_assistant_speaks():
    found = row({"chosen": [ASK, YES, WHY, NO]}, rejected=None)
    assert (found.prompts, found.candidates, found.scores) == (([ASK],), ([YES, WHY, NO],), (0.0,))


def test_conversations_that_begin_differently_are_refused():
    with pytest.raises(Refusal, match="row 0 begin differently"):
        row({"chosen": [ASK, YES], "rejected": [WHY, NO]})


def test_messages_come_through_a_file_as_they_are(tmp_path):
    Dataset.from_list([{"chosen": [ASK, YES], "rejected": [ASK, NO]}]).to_parquet(str(tmp_path / "x.parquet"))
    source = Conversations(str(tmp_path / "x.parquet"))
    assert source.row(0, source.open()[0], lambda name: name).candidates == ([YES], [NO])


def test_of_a_conversation_that_goes_on_where_the_other_ends_the_prompt_ends_before_the_answer():
    longer, shorter = [ASK, YES, WHY, NO], [ASK, YES]
    assert row({"chosen": longer, "rejected": shorter}).candidates == (longer[1:], shorter[1:])
    assert row({"chosen": shorter, "rejected": longer}).candidates == (shorter[1:], longer[1:])


def test_conversations_that_share_a_system_message_alone_share_no_prompt():
    system = turn("system", "s")
    with pytest.raises(Refusal, match="row 0 begin differently, so they share no prompt that was answered"):
        row({"chosen": [system, ASK, YES], "rejected": [system, WHY, NO]})


@pytest.mark.parametrize("asked", [[ASK], [ASK, WHY]])
def test_conversations_without_an_answer_are_refused(asked):
    with pytest.raises(Refusal, match="A conversation of row 0 has no answer"):
        row({"chosen": asked, "rejected": asked})


def test_conversations_may_part_where_the_user_asks_again():
    found = row({"chosen": [ASK, YES, WHY, YES], "rejected": [ASK, YES, ASK, NO]})
    assert (found.prompts[0], found.candidates) == ([ASK, YES], ([WHY, YES], [ASK, NO]))


def test_contents_in_parts_and_nulls_of_one_side_do_not_part_conversations():
    parts = turn("user", [{"type": "text", "text": "a"}]) | {"name": None}
    assert row({"chosen": [parts, YES], "rejected": [ASK, NO]}).prompts == ([ASK], [ASK])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("\n\nHuman: a\n\nAssistant: yes", "split each into messages with role and content, or into texts for the "),
        ('[{"role": "user", "content": "a"}]', "parse them (json.loads)"),
        (None, "None' (NoneType) is no list of messages"),
        (7, "'7' (int) is no list"),
        ([], "'[]' (list) is no list"),
        (["a"], "(list) is no list of messages"),
        ([{"from": "human", "value": "a"}], "is no list of messages with role and content"),
        ([turn("user", 7)], "Row 2: The content of a message of user is '7' (int)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("column", ["chosen", "rejected"])
def test_what_is_no_conversation_is_refused_by_row_and_column(wrong, said, column):
    with pytest.raises(Refusal, match="Row 2") as refused:
        Conversations("x").row(2, {"chosen": [ASK, YES], "rejected": [ASK, NO]} | {column: wrong}, lambda name: name)
    assert said in str(refused.value)
