import math
from pathlib import Path

import pytest

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.files.records import Held
from diffpo.data.rows import PairRow
from diffpo.data.typed import MARK, MARKED, Captions
from diffpo.text.data.completions import Completion, Segment
from diffpo.text.data.rows import DropEmpty, DropIdentical, ReadTexts, RequireNumbers, count_characters, one_text

DRAWS = Draws(0, (0,), (0,))
CHAT = [{"role": "user", "content": "hi"}]


def row(*candidates, prompt="p", **changed) -> PairRow:
    return PairRow(3, (prompt,) * len(candidates), candidates, **changed)


def test_cells_become_what_they_hold():
    read = ReadTexts()(row(Held("yes", Path()), "no"), DRAWS)
    assert read is not None
    assert read.candidates == ("yes", "no")


def test_contents_in_parts_become_texts_on_both_sides():
    said = {"role": "assistant", "content": [{"type": "text", "text": "ye"}, {"type": "text", "text": "s"}]}
    read = ReadTexts()(
        row([said], "no", prompt=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}]), DRAWS
    )
    assert read is not None
    assert (read.prompts, read.candidates) == ((CHAT, CHAT), ([{"role": "assistant", "content": "yes"}], "no"))


SAID = {"role": "assistant", "content": "yes"}


@pytest.mark.parametrize("prompt", ["hi", CHAT])
@pytest.mark.parametrize("said", ["yes", [SAID], [SAID, CHAT[0], SAID], [{**SAID, "content": None}], None])
@pytest.mark.parametrize("where", ["prompt", "candidate", "both", "neither"])
def test_byte_order_marks_are_removed_and_counted_once(prompt, said, where):
    def begun(text):
        if isinstance(text, str):
            return MARK + text
        return text and [{**message, "content": message["content"] and MARK + message["content"]} for message in text]

    begins = [
        begun(text) if where in (name, "both") else text for name, text in (("prompt", prompt), ("candidate", said))
    ]
    read = ReadTexts()(row(begins[1], "no", prompt=begins[0]), DRAWS)
    assert read is not None
    assert (read.prompts, read.candidates) == ((prompt, prompt), (said, "no"))
    assert read.notes == ((MARKED,) if begins != [prompt, said] else ())


def test_byte_order_marks_of_parts_are_removed():
    """Where a picture stands among them, parts stay apart."""
    parts = [{"type": "image", "text": ["a"]}, {"type": "text", "text": MARK + "hi"}]
    read = ReadTexts()(row("yes", "no", prompt=[{"role": "user", "content": parts}]), DRAWS)
    assert read is not None
    assert read.prompts[0] == [{"role": "user", "content": [parts[0], {"type": "text", "text": "hi"}]}]
    assert read.notes == (MARKED,)


def test_several_captions_are_shown_as_they_are():
    with pytest.raises(Refusal, match=r"a prompt that is neither a text .*: \('a', 'b'\) \(Captions\)"):
        ReadTexts()(row("a", "b", prompt=Captions(("a", "b"))), DRAWS)


def test_candidates_that_repeat_their_prompt_are_refused():
    with pytest.raises(Refusal, match=r"Row 3: A candidate repeats its prompt.*Conversations"):
        ReadTexts()(row("no", [*CHAT, {"role": "assistant", "content": "yes"}], prompt="hi"), DRAWS)


@pytest.mark.parametrize("written", ['[{"role": "user", "content": "hi"}]', str(CHAT)])
def test_messages_written_as_a_text_are_refused(written):
    for wrong, name in ((row("a", "b", prompt=written), "prompt"), (row("a", written), "candidate")):
        with pytest.raises(Refusal, match=f"Row 3 has a {name} that is messages written as a text: .*json.loads"):
            ReadTexts()(wrong, DRAWS)


def test_rows_without_scores_get_one_zero_for_each_candidate():
    filled = RequireNumbers()(row("a", "b", "c"), DRAWS)
    assert filled is not None
    assert filled.scores == (0.0, 0.0, 0.0)


def test_scores_have_to_be_as_many_as_candidates():
    with pytest.raises(Refusal, match="Row 3 has 2 scores and 3 candidates"):
        RequireNumbers()(row("a", "b", "c", scores=(1.0, 0.0)), DRAWS)


@pytest.mark.parametrize(
    "wrong", [7, math.nan, True, b"hi", {"role": "user"}, [], ["hi"], [{"content": "hi"}], CHAT[0]]
)
def test_what_is_no_text_is_refused_with_its_row(wrong):
    with pytest.raises(Refusal, match="Row 3 has a candidate that is neither a text nor a list of messages"):
        ReadTexts()(row("a", wrong), DRAWS)
    with pytest.raises(Refusal, match="Row 3 has a prompt"):
        ReadTexts()(row("a", "b", prompt=wrong), DRAWS)


@pytest.mark.parametrize(
    "empty", [None, "", " \n", Completion(()), *([{"role": "assistant", "content": x}] for x in ("", " ", None))]
)
def test_rows_of_which_one_candidate_is_empty_are_dropped(empty):
    assert DropEmpty()(row("a", empty), DRAWS) is None
    assert DropEmpty()(row("a", "b"), DRAWS) == row("a", "b")


def test_an_answer_that_only_calls_a_tool_is_not_empty():
    calls = row([{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}], "b")
    assert DropEmpty()(calls, DRAWS) == calls


def test_rows_whose_candidates_are_the_same_are_dropped():
    assert DropIdentical()(row("a", "a"), DRAWS) is None
    assert DropIdentical()(row(CHAT, CHAT), DRAWS) is None
    for kept in (row("a", "b"), row("a"), row("a", "b", "a"), PairRow(0, ("p", "q"), ("a", "a"))):
        assert DropIdentical()(kept, DRAWS) == kept


@pytest.mark.parametrize("wrong", [{"weight": math.nan}, {"prob": math.nan}, {"scores": (0.0, math.inf)}])
def test_numbers_have_to_be_finite(wrong):
    with pytest.raises(Refusal, match="Row 3 has .*no finite number"):
        RequireNumbers()(row("a", "b", **wrong), DRAWS)


def test_the_length_of_a_row_is_that_of_its_longest_candidate_with_its_prompt():
    assert count_characters(row("a", Completion((Segment("bc"), Segment("d"))), prompt="pp")) == 5
    assert count_characters(row("a", "b", prompt=CHAT)) == 3


YES = {"role": "assistant", "content": "yes"}


def test_one_message_is_one_text():
    assert [one_text(x, row()) for x in ("yes", Completion((Segment("yes"),)), [YES])] == ["yes"] * 3


@pytest.mark.parametrize(
    "several",
    [
        [YES, *CHAT, YES],
        [{**YES, "tool_calls": [{"name": "f"}]}],
        [{**YES, "reasoning_content": "why"}],
        [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}],
    ],
)
def test_what_would_lose_its_roles_as_one_text_is_refused(several):
    with pytest.raises(Refusal, match="Row 3 has a candidate of messages of assistant.*leave that map out"):
        one_text(several, row())
