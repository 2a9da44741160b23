import base64
import json
import sys
from io import BytesIO
from urllib.parse import quote

import pytest
from fake_endpoint import serving
from PIL import Image

from diffpo.annotators.captioners.endpoint import Endpoint, EndpointPerturber
from diffpo.annotators.captioners.roles import Interrupted, Strength
from diffpo.annotators.endpoint import encode_picture
from diffpo.core.refusal import Refusal

PICTURES = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]


@pytest.fixture
def server(monkeypatch):
    """Repeats the text it is sent, or fails as `failing` says of that text."""
    failing = {}

    def answer(request):
        content = request["messages"][0]["content"]
        text = content if isinstance(content, str) else content[1]["text"]
        status = failing.get(text, 200 if request["model"] == "m" else 404)
        return (text or None) if status == 200 else status

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with serving(answer) as served:
        served.failing = failing
        yield served


def test_picture_prompt_and_seed_are_sent(server):
    captioner = Endpoint("m", server.url, max_tokens=9, temperature=0.5, parallel=1, instruction="of {prompt}")
    captioner.check()
    assert captioner(PICTURES, ["a", "b"], [1, 2]) == ["of a", "of b"]
    sent = server.asked[-1]
    assert {"model": "m", "seed": 2, "max_tokens": 9, "temperature": 0.5}.items() <= sent.items()
    _, encoded = sent["messages"][0]["content"][0]["image_url"]["url"].split(",")
    assert Image.open(BytesIO(base64.b64decode(encoded))).getpixel((0, 0)) == (0, 0, 255)


def test_a_perturber_is_asked_by_strength(server):
    perturber = EndpointPerturber("m", server.url, instructions=("w {text}", "m {text}", "s {text}"))
    perturber.check()
    assert perturber(["a", "b"], Strength.strong, [1, 2]) == ["s a", "s b"]


def test_a_refused_text_and_a_null_answer_are_empty(server):
    server.failing["bad"] = 400
    perturber = EndpointPerturber("m", server.url, instructions=("{text}",) * 3)
    assert perturber(["a", "bad", ""], Strength.weak, [1, 2, 3]) == ["a", "", ""]


def test_when_it_stops_answering_what_was_said_is_kept(server):
    server.failing["b"] = 503
    perturber = EndpointPerturber("m", server.url, tries=1, instructions=("{text}",) * 3)
    with pytest.raises(
        Interrupted, match="m at http.* stopped answering .*no way.*run the same command again"
    ) as told:
        perturber(["a", "b", "c"], Strength.weak, [1, 2, 3])
    assert told.value.said == {0: "a", 2: "c"}


def test_what_may_pass_is_tried_again(server, monkeypatch):
    server.failing["a"] = 503
    perturber = EndpointPerturber("m", server.url, tries=2, instructions=("{text}",) * 3)
    with pytest.raises(Interrupted):
        perturber(["a"], Strength.weak, [1])
    assert len(server.asked) == 2


def test_an_endpoint_that_cannot_be_used_is_told_before_any_work(server, monkeypatch):
    with pytest.raises(Refusal, match="other at http.* does not answer .*no way.*check model, base_url and key"):
        Endpoint("other", server.url, tries=1).check()
    with pytest.raises(Refusal, match="does not answer .*Connection error"):
        Endpoint("m", "http://127.0.0.1:9/v1", tries=1).check()
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(Refusal, match="EndpointPerturber finds no key: set OPENAI_API_KEY"):
        EndpointPerturber("m", server.url).check()
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(Refusal, match=r"Endpoint needs openai: pip install 'diffpo\[captions\]'"):
        Endpoint("m", server.url).check()


SECRETS = ("hunter2", "p@ss/w:rd", "geheim", "s")


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("echoed", ["{}", "Bearer {}.", "key={!r}", "{0}{0}"])
def test_neither_key_nor_password_is_told(server, monkeypatch, secret, echoed):
    """Whoever repeats them, in whatever writing."""
    written = quote(secret, safe="")
    host = server.url.removeprefix("http://")
    monkeypatch.setenv("OPENAI_API_KEY", f"sk-{secret}-1")
    captioner = Endpoint("m", f"http://ann:{written}@{host}?token={written}", tries=1)
    assert captioner.place.rstrip("/") == f"m at {server.url}"  # older clients end no address that has a query
    for kind in (secret, written, f"sk-{secret}-1", json.dumps(secret)[1:-1], basic(f"ann:{secret}")):
        told = captioner.said(ValueError(echoed.format(kind)))
        assert kind not in told.replace(echoed.format("***"), "")
    with pytest.raises(Refusal, match=r"does not answer .*no way, .*\*\*\*") as caught:
        Endpoint("other", captioner.base_url, tries=1).check()
    if len(secret) > 1:
        assert secret not in str(caught.value)
        assert written not in str(caught.value)


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_an_interruption_tells_no_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hunter2")
    server.failing["b"] = 503
    perturber = EndpointPerturber("m", server.url, tries=1, instructions=("{text}",) * 3)
    with pytest.raises(Interrupted, match="no way, Bearer \\*\\*\\*, ") as caught:
        perturber(["b"], Strength.weak, [1])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "http://", "http://h:abc/v1", "http://h:99999/v1", "ftp://h/v1", "http://[x/v1", "key"],
)
def test_what_is_no_address_is_refused_without_repeating_it(monkeypatch, url):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with pytest.raises(Refusal) as caught:
        Endpoint("m", url).check()
    assert str(caught.value) == "base_url is no address of a server; write one like http://localhost:8000/v1."


@pytest.mark.parametrize("wrong", [{"parallel": 0}, {"tries": 0}, {"max_tokens": 0}])
def test_counts_of_nothing_are_refused(server, wrong):
    with pytest.raises(Refusal, match="must be at least 1, got 0"):
        Endpoint("m", server.url, **wrong).check()


@pytest.mark.parametrize("reply", [{}, {"choices": []}, {"choices": None}, {"choices": [{}]}, {"error": "x"}])
def test_an_answer_of_another_kind_is_one_line(server, reply):
    server.failing["a"] = reply
    with pytest.raises(Refusal, match="m at http.* does not answer as chat completions are answered; check that base"):
        EndpointPerturber("m", server.url, instructions=("{text}",) * 3)(["a"], Strength.weak, [1])


def test_what_the_texts_depend_on():
    """Where it is served does not count: another port is no other model."""
    first, second = Endpoint("m", "http://a/v1", parallel=2), Endpoint("m", "http://b/v1")
    assert first.identity == second.identity
    assert first.identity != Endpoint("m", temperature=0.0).identity


def test_a_picture_is_its_own_address():
    assert encode_picture(PICTURES[0]).startswith("data:image/png;base64,iVBOR")
