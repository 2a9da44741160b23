"""Answers of a model behind an endpoint."""

import pytest
from fake_endpoint import serving

from diffpo.annotators.captioners.roles import Interrupted
from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.text.model.endpoint_sampling import EndpointSampler

PROMPTS = ["a", [{"role": "system", "content": "short"}, {"role": "user", "content": "b"}]]


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "any")


def draws(n: int, first: int = 0, epoch: int = 0) -> Draws:
    return Draws(7, (epoch,) * n, tuple(range(first, first + n)))


def echo(request):
    return f"{request['messages'][-1]['content']} {request['seed']}"


def texts(sampled) -> list[list[str]]:
    return [[one.content for one in of] for of in sampled]


def test_each_candidate_has_a_seed_of_its_own_whatever_the_batch_and_k():
    with serving(echo) as server:
        sampler = EndpointSampler("m", server.url, top_p=0.9)
        together = texts(sampler(None, PROMPTS, 2, draws(2)))
        assert texts(sampler(None, PROMPTS[1:], 3, draws(1, first=1)))[1] == [together[1][1]]
        assert texts(sampler(None, PROMPTS, 2, draws(2, epoch=1))) != together
        assert len({said for of in together for said in of}) == 4
        assert all(request["top_p"] == 0.9 for request in server.asked)
        assert PROMPTS[1] in [request["messages"] for request in server.asked]


def test_what_was_cut_is_told():
    def answer(request):
        message = {"role": "assistant", "content": "well"}
        return {
            "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5},
        }

    with serving(answer) as server:
        ((one,),) = EndpointSampler("m", server.url)(None, ["a"], 1, draws(1))
    assert (one.content, one.about) == ("well", {"tokens": 4, "ended": False, "prompt_cut": False})


def test_an_endpoint_that_dies_leaves_what_it_answered():
    """Candidate c of prompt i stands under c b + i."""
    asked = ["a", "b", "c"]

    def answer(request):
        return 500 if request["messages"][0]["content"] == "b" else echo(request)

    with serving(answer) as server:
        sampler = EndpointSampler("m", server.url, tries=1)
        with pytest.raises(Interrupted, match="stopped answering") as stopped:
            sampler(None, asked, 2, draws(3))
    assert {i: one.content[0] for i, one in stopped.value.said.items()} == {0: "a", 2: "c", 3: "a", 5: "c"}


def test_a_question_that_is_refused_has_an_empty_answer():
    with serving(lambda request: 400) as server:
        assert texts(EndpointSampler("m", server.url, tries=1)(None, ["a"], 1, draws(1))) == [[""]]


def test_pictures_in_a_prompt_are_refused():
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]
    with pytest.raises(Refusal, match="no texts"):
        EndpointSampler("m", "http://localhost:1/v1")(None, [parts], 1, draws(1))


def test_the_identity_says_what_answers_depend_on():
    about = EndpointSampler("m", "http://localhost:1/v1", top_p=0.5).identity
    assert about["kind"] == "EndpointSampler"
    assert (about["model_id"], about["top_p"], about["temperature"]) == ("m", 0.5, 1.0)
