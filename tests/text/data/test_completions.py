from diffpo.text.data.completions import Completion, Segment, join_spoken


def test_a_completion_is_the_text_of_its_pieces():
    assert Completion((Segment("yes "), Segment("indeed", scored=False, part=0))).text == "yes indeed"


def test_all_kinds_of_candidates_say_their_text():
    messages = [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "why"}]
    assert [join_spoken("yes"), join_spoken(Completion((Segment("yes"),))), join_spoken(messages)] == [
        "yes",
        "yes",
        "yes\nwhy",
    ]


def test_a_message_says_its_calls_of_tools_and_nothing_if_its_content_is_null():
    calls = [{"name": "f"}]
    messages = [{"role": "assistant", "content": None, "tool_calls": calls}, {"role": "assistant", "content": None}]
    assert join_spoken(messages) == f"{calls}\n"
