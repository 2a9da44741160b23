import pytest
from datasets import Dataset

from diffpo.refusal import Refusal
from diffpo.text.sources import Conversations


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
