import pytest
from fake_endpoint import serving
from tiny_speakers import llama

from diffpo.annotators.captioners.chat import ChatSpeaker
from diffpo.annotators.captioners.endpoint import Served
from diffpo.annotators.captioners.roles import Interrupted
from diffpo.rounds.asked import Asked, Shot, write_text
from diffpo.rounds.judges import BothOrders


@pytest.fixture
def server(monkeypatch):
    """Prefers the first answer if it is "good"; does not decide about "odd", nor answer about "dead"."""

    def answer(request):
        text = request["messages"][0]["content"].rpartition("Prompt:")[2]
        if "dead" in text:
            return 503
        first = text.partition("Answer 1: ")[2].partition("\n")[0]
        return "Both 1 and 2." if "odd" in text else f"Let me see 2 answers.\n{1 if first == 'good' else 2}"

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with serving(answer) as served:
        yield served


def test_the_last_line_decides_and_what_names_neither_counts_one_half(server):
    judge = Asked(Served("m", server.url, max_tokens=9, temperature=0.0))
    assert judge(["p", "p", "odd"], ["good", "bad", "a"], ["bad", "good", "b"]).tolist() == [1.0, 0.0, 0.5]
    assert dict(judge.noted) == {"unparsable": 1}
    assert BothOrders(judge).noted == judge.noted


def test_the_same_question_is_asked_with_the_same_seed_and_words(server):
    judge = Asked(Served("m", server.url, parallel=1), "Which?", [Shot("q", "x", "y", 2)])
    judge(["p"], ["good"], ["bad"])
    judge(["other", "p"], ["a", "good"], ["b", "bad"])
    first, _, again = server.asked
    assert first == again
    assert first["messages"][0]["content"] == (
        "Prompt: q\nAnswer 1: x\nAnswer 2: y\nThe better answer: 2\n\nPrompt: p\nAnswer 1: good\nAnswer 2: bad\nWhich?"
    )


def test_an_endpoint_that_dies_says_what_it_had_answered(server):
    judge = Asked(Served("m", server.url, tries=1))
    with pytest.raises(Interrupted) as stopped:
        judge(["p", "dead"], ["good", "a"], ["bad", "b"])
    assert stopped.value.said == {0: 1.0}


def test_a_model_of_transformers_answers_too(tmp_path):
    judge = Asked(ChatSpeaker(str(llama(tmp_path)), max_tokens=2))
    judge.speaker.check()
    assert judge(["a red"], ["a blue"], ["a circle"]).tolist() == [0.5]
    assert judge.noted["unparsable"] == 1


def test_messages_are_written_with_who_says_them():
    assert write_text([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]) == (
        "user: hi\nassistant: ho"
    )
