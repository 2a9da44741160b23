from dataclasses import replace

import pytest

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.rows import PairRow
from diffpo.text.data.completions import Completion, Segment
from diffpo.text.data.row_maps import DifferingWords, MarkedSpans, SplitSteps, TaggedSpans

DRAWS = Draws(0, (0,), (0,))


def pair(chosen="a red ball", rejected="a blue ball", **extra):
    return PairRow(4, ("p", "p"), (chosen, rejected), extra=extra)


def said(completion):
    return [(segment.text, segment.part) for segment in completion.segments]


def test_spans_of_columns_become_parts():
    row = MarkedSpans()(pair(chosen_spans=[[2, 5]], rejected_spans=[[2, 6], [7, 11]]), DRAWS)
    assert said(row.candidates[0]) == [("a ", 0), ("red", 1), (" ball", 0)]
    assert said(row.candidates[1]) == [("a ", 0), ("blue", 1), (" ", 0), ("ball", 2)]
    assert row.candidates[1].text == "a blue ball"


def test_spans_follow_their_side():
    """Of a row whose sides were exchanged, the columns are the other way round."""
    turned = pair(chosen_spans=[[2, 5]], rejected_spans=[[2, 6]]).swapped()
    assert said(MarkedSpans()(turned, DRAWS).candidates[0]) == [("a ", 0), ("blue", 1), (" ball", 0)]


def test_tokens_between_spans_are_scored_but_belong_to_none():
    row = MarkedSpans()(pair(chosen_spans=[[0, 1]], rejected_spans=[]), DRAWS)
    assert row.candidates[0] == Completion((Segment("a", part=1), Segment(" red ball", part=0)))
    assert row.candidates[1] == Completion((Segment("a blue ball", part=0),))


def test_a_pair_without_spans_is_dropped():
    assert MarkedSpans()(pair(chosen_spans=[], rejected_spans=[]), DRAWS) is None


@pytest.mark.parametrize("spans", [[[2, 50]], [[4, 6], [2, 3]], [[2, 5], [4, 6]], [[3, 3]], [[-1, 2]]])
def test_spans_that_do_not_fit_the_text_are_refused(spans):
    with pytest.raises(Refusal, match="Row 4 has spans .* in a text of 10 characters"):
        MarkedSpans()(pair(chosen_spans=spans, rejected_spans=[]), DRAWS)


def test_a_missing_column_is_named():
    with pytest.raises(Refusal, match="MarkedSpans needs column 'chosen_spans'"):
        MarkedSpans()(pair(), DRAWS)


def test_tagged_texts_say_the_same_as_columns():
    tagged = pair(answer_masked="a <MASK>red</MASK> ball", pred_masked="<MASK>a blue</MASK> <MASK>ball</MASK>")
    columns = pair(chosen_spans=[[2, 5]], rejected_spans=[[0, 6], [7, 11]])
    assert TaggedSpans()(tagged, DRAWS).candidates == MarkedSpans()(columns, DRAWS).candidates


def test_a_tagged_text_of_another_answer_is_refused():
    with pytest.raises(Refusal, match="answer_masked of row 4 .* is 'a green ball'.* the answer is 'a red ball'"):
        TaggedSpans()(pair(answer_masked="a <MASK>green</MASK> ball", pred_masked="a blue ball"), DRAWS)


def test_differing_words_are_found():
    row = DifferingWords()(pair("one small red ball here", "one red cube here"), DRAWS)
    assert said(row.candidates[0]) == [("one", 0), (" small", 1), (" red", 0), (" ball", 2), (" here", 0)]
    assert said(row.candidates[1]) == [("one red", 0), (" cube", 1), (" here", 0)]


def test_texts_of_the_same_words_differ_nowhere():
    row = pair("a ball", "a ball")
    assert DifferingWords()(row, DRAWS) is None


def test_messages_are_marked_by_what_they_say():
    messages = replace(pair(), candidates=([{"role": "assistant", "content": "a red"}], "a blue"))
    assert said(DifferingWords()(messages, DRAWS).candidates[0]) == [("a", 0), (" red", 1)]


def test_lines_are_steps():
    row = SplitSteps()(pair("\nfirst\n\nsecond\n", "one"), DRAWS)
    assert said(row.candidates[0]) == [("\nfirst\n\n", 1), ("second\n", 2)]
    assert said(row.candidates[1]) == [("one", 1)]


def test_steps_begin_where_the_pattern_matches_nothing():
    row = SplitSteps(r"(?=Step \d)")(pair("Step 1: a. Step 2: b.", "c"), DRAWS)
    assert said(row.candidates[0]) == [("Step 1: a. ", 1), ("Step 2: b.", 2)]
