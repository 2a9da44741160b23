"""Models of a comparison: what answers, and what of it is kept."""

import json

import pytest
from fake_endpoint import serving
from tiny_text import saved_language_model

from diffpo.annotators.captioners.roles import Interrupted
from diffpo.core.refusal import Refusal
from diffpo.text.evaluation.compared import ComparedText
from diffpo.text.model.endpoint_sampling import EndpointSampler
from diffpo.text.model.loading import CausalLM
from diffpo.text.model.lora import TextLoRA
from diffpo.text.model.sampling import TextSampler

PROMPTS = ["is it", "a", "what the"]
SAMPLER = TextSampler(max_tokens=6, batch_size=4)


def texts(answers) -> list[list[str]]:
    return [[one.content for one in of] for of in answers]


def test_a_base_and_a_lora_answer_the_same_draws(tmp_path):
    base = saved_language_model(tmp_path / "base", seed=3)
    config = CausalLM(base, adapter=TextLoRA(rank=2))
    tuned = config.load()
    for name, weight in tuned.network.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(0.5)
    tuned.save(tmp_path / "lora")
    plain = ComparedText("base", base=base).answer(SAMPLER, PROMPTS, 2, 0, tmp_path / "a")
    other = ComparedText("lora", base=base, lora=str(tmp_path / "lora"))
    moved = other.answer(SAMPLER, PROMPTS, 2, 0, tmp_path / "b")
    assert [len(of) for of in plain] == [2, 2, 2]
    assert texts(moved) != texts(plain)
    assert texts(ComparedText("c", base=base).answer(SAMPLER, PROMPTS, 2, 0, tmp_path / "c")) == texts(plain)
    assert other.source == f"{base} + {tmp_path / 'lora'}"


def test_finished_answers_are_not_sampled_again_and_other_weights_are_refused(tmp_path, monkeypatch):
    base = saved_language_model(tmp_path / "base", seed=3)
    model, place = ComparedText("base", base=base), tmp_path / "a"
    once = model.answer(SAMPLER, PROMPTS, 1, 0, place)
    monkeypatch.setattr(ComparedText, "load", lambda self: pytest.fail("loaded"))
    assert model.answer(SAMPLER, PROMPTS, 1, 0, place) == once
    saved_language_model(tmp_path / "base", seed=4)
    with pytest.raises(Refusal, match="files was"):
        model.answer(SAMPLER, PROMPTS, 1, 0, place)


def test_an_endpoint_that_dies_is_asked_only_for_the_rest(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    dead = [True]

    def answer(request):
        asked = request["messages"][0]["content"]
        return 500 if dead[0] and asked == "a" else f"{asked} {request['seed']}"

    with serving(answer) as server:
        model = ComparedText("there", endpoint=EndpointSampler("m", server.url, tries=1))
        with pytest.raises(Interrupted):
            model.answer(SAMPLER, PROMPTS, 1, 0, tmp_path)
        dead[0], asked = False, [request["messages"][0]["content"] for request in server.asked]
        found = texts(model.answer(SAMPLER, PROMPTS, 1, 0, tmp_path))
        again = [request["messages"][0]["content"] for request in server.asked][len(asked) :]
    assert [said.rsplit(" ", 1)[0] for (said,) in found] == PROMPTS
    assert (sorted(asked), again) == (sorted(PROMPTS), ["a"])


def test_of_a_half_answered_prompt_only_the_other_half_is_asked_again(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    dead, refused = [False], list[tuple[str, int]]()

    def question(request) -> tuple[str, int]:
        return request["messages"][0]["content"], request["seed"]

    def answer(request):
        if dead[0] and question(request) in refused:
            return 500
        return f"{request['messages'][0]['content']} {request['seed']}"

    with serving(answer) as server:
        model = ComparedText("there", endpoint=EndpointSampler("m", server.url, tries=1))
        whole = texts(model.answer(SAMPLER, PROMPTS, 2, 0, tmp_path / "whole"))
        refused += [
            (prompt, int(second.rsplit(" ", 1)[1])) for prompt, (_, second) in zip(PROMPTS[:2], whole[:2], strict=True)
        ]
        dead[0] = True
        with pytest.raises(Interrupted):
            model.answer(SAMPLER, PROMPTS, 2, 0, tmp_path / "dying")
        dead[0], before = False, len(server.asked)
        assert texts(model.answer(SAMPLER, PROMPTS, 2, 0, tmp_path / "dying")) == whole
        again = [question(request) for request in server.asked[before:]]
    assert {*refused} <= {*again}
    assert len(again) == 4  # both, and the two of the batch of four that had not been begun


def test_a_table_of_finished_answers_takes_part(tmp_path):
    lines = [{"prompt": prompt, "answer": f"{prompt} {n}"} for prompt in PROMPTS for n in range(2)]
    file = tmp_path / "said.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    model = ComparedText("theirs", answers=str(file))
    assert texts(model.answer(SAMPLER, PROMPTS[::-1], 2, 0, tmp_path))[0] == ["what the 0", "what the 1"]
    with pytest.raises(Refusal, match="has 2 answers to 'is it' .3 such prompts of 3., 3 are compared"):
        model.answer(SAMPLER, PROMPTS, 3, 0, tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "one of the three"),
        ({"base": "a", "answers": "b"}, "one of the three"),
        ({"lora": "a", "answers": "b"}, "a lora without a base"),
        ({"name": "verdicts", "base": "a"}, "verdicts"),
    ],
)
def test_models_that_are_none_are_refused(wrong, said):
    with pytest.raises(Refusal, match=said):
        ComparedText(**{"name": "x", **wrong})
