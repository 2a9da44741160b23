from collections import Counter

import pytest
from fake_endpoint import serving
from tiny_judges import question

from diffpo.annotators.captioners.roles import Interrupted
from diffpo.annotators.user_judges.endpoint import EndpointUserJudge
from diffpo.annotators.user_judges.roles import Verdict


@pytest.fixture
def server(monkeypatch):
    """Says to each question what `said` has for its caption, one answer after the other; a number is a failure."""
    said = {}

    def answer(request):
        words = [part["text"] for part in request["messages"][0]["content"] if part["type"] == "text"]
        caption = next(word for word in words if word.startswith("Now")).split("Caption: ")[1].strip()
        answers = said.get(caption, ["1"])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with serving(answer) as served:
        served.said = said
        yield served


def test_a_question_is_sent_with_all_its_pictures_in_order(server):
    judge = EndpointUserJudge("m", server.url)
    judge.check()
    assert judge([question(support=2)], [3]) == [Verdict(1, "1")]
    sent = server.asked[-1]
    assert sent["seed"] == 3
    kinds = [part["type"] for part in sent["messages"][0]["content"]]
    assert Counter(kinds)["image_url"] == 6
    assert kinds[0] == kinds[-1] == "text"


def test_an_answer_that_names_no_picture_is_asked_for_again_with_another_seed(server):
    server.said |= {"a": ["hm", "", "2"], "b": ["2"], "c": ["1 or 2"]}
    judge = EndpointUserJudge("m", server.url, parallel=1)
    verdicts = judge([question("a"), question("b"), question("c")], [10, 20, 30])
    assert verdicts == [Verdict(2, "2", 2), Verdict(2, "2"), Verdict(None, "1 or 2", 2)]
    assert [request["seed"] for request in server.asked] == [10, 20, 30, 11, 31, 12, 32]


def test_when_it_stops_answering_clear_verdicts_are_kept(server):
    server.said |= {"a": ["2"], "b": ["hm", 503], "c": ["hm", "1"]}
    judge = EndpointUserJudge("m", server.url, tries=1, parallel=1)
    with pytest.raises(Interrupted, match="stopped answering .*no way.*run the same command again") as told:
        judge([question("a"), question("b"), question("c")], [1, 2, 3])
    assert told.value.said == {0: Verdict(2, "2"), 2: Verdict(1, "1", 1)}


def test_verdicts_depend_on_instruction_and_retries():
    one = EndpointUserJudge("m")
    assert one.identity == EndpointUserJudge("m", "http://a/v1").identity
    assert one.identity != EndpointUserJudge("m", instruction="Say 1").identity
    assert one.identity != EndpointUserJudge("m", retries=0).identity
