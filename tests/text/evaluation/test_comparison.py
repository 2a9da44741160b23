"""Models that write side by side."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from fake_endpoint import serving

from diffpo.annotators.captioners.roles import Interrupted
from diffpo.annotators.endpoint import Served
from diffpo.core.refusal import Refusal
from diffpo.evaluation.scorer import TextScorer
from diffpo.rounds.asked import Asked
from diffpo.rounds.roles import Judge, Sampled
from diffpo.text.evaluation.comparison import (
    TextJudges,
    ask_about_pair,
    compare_texts,
    list_text_warnings,
    summarize_texts,
)

PROMPTS = ["p", "q"]


def answers(*texts: str) -> list[list[Sampled]]:
    """Two to each of the two prompts."""
    return [[Sampled(text, {"ended": text != "cut"}) for text in texts[i : i + 2]] for i in (0, 2)]


@dataclass(frozen=True)
class Digits(TextScorer):
    """The number that an answer is."""

    name = "digits"  # pyright: ignore
    model_id = "none"  # pyright: ignore
    version = "1"  # pyright: ignore

    def __call__(self, prompts, candidates):
        return torch.tensor([float(said) if said.isdigit() else torch.nan for said in candidates])


@dataclass(frozen=True)
class Longer(Judge):
    """The longer one wins in three of four cases."""

    asked: list[int] = field(default_factory=list)

    @property
    def identity(self):
        return {"judge": "longer"}

    def __call__(self, prompts, first, second):
        self.asked.append(len(prompts))
        return torch.tensor(
            [0.75 if len(one) > len(other) else 0.25 for one, other in zip(first, second, strict=True)]
        )


def test_win_rates_of_scorers_and_judges_by_hand(tmp_path):
    """b against a by digits: 1, 1/2 and 0, 1: 3/4 and 1/2. By length: 3/4, tie 1/2 and 1/4, 3/4: 5/8 and 1/2."""
    models = {"a": answers("1", "22", "33", "4"), "b": answers("20", "22", "5", "40")}
    judges = TextJudges([Digits()], {"longer": Longer()})
    numbers, pairs = compare_texts(models, PROMPTS, judges, tmp_path)
    assert numbers["b"]["digits"].tolist() == [[20, 22], [5, 40]]
    assert numbers["b"]["longer"].tolist() == [[0.75, 0.5], [0.25, 0.75]]
    assert numbers["a"]["longer"].tolist() == [[0.25, 0.5], [0.75, 0.25]]
    assert [(pair["metric"], pair["a"], pair["b"], pair["win_rate"]) for pair in pairs] == [
        ("digits", "b", "a", 0.625),
        ("longer", "b", "a", 0.5625),
    ]
    assert (pairs[0]["win_rate_low"], pairs[0]["win_rate_high"]) == (0.5, 0.75)
    assert (pairs[1]["win_rate_low"], pairs[1]["win_rate_high"]) == (0.5, 0.625)
    assert pairs[0]["lengths"] == [1.75, 1.5]
    assert pairs[0]["longer"] == (1 + 0.5 + 0 + 1) / 4


def test_a_judge_is_asked_nothing_twice_and_nothing_of_equal_answers(tmp_path):
    judge, sides = Longer(), [answers("1", "22", "33", "4"), answers("20", "22", "5", "40")]
    once = ask_about_pair(judge, PROMPTS, sides[0], sides[1], tmp_path, batch=4)
    assert judge.asked == [3]
    assert np.array_equal(ask_about_pair(judge, PROMPTS, sides[0], sides[1], tmp_path, batch=1), once)
    assert judge.asked == [3]
    with pytest.raises(Refusal, match="answers was"):
        ask_about_pair(judge, PROMPTS, sides[1], sides[0], tmp_path, batch=4)


def test_a_judge_at_an_endpoint_that_dies_is_asked_only_for_the_rest(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    dead, sides = [True], [answers("x", "b", "c", "d"), answers("e", "f", "g", "h")]

    def answer(request):
        return 500 if dead[0] and "x" in request["messages"][0]["content"].split() else "1"

    with serving(answer) as server:
        judge = Asked(Served("m", server.url, tries=1))
        with pytest.raises(Interrupted):
            ask_about_pair(judge, PROMPTS, *sides, tmp_path, batch=4)
        dead[0], asked = False, len(server.asked)
        assert ask_about_pair(judge, PROMPTS, *sides, tmp_path, batch=4).tolist() == [[1, 1], [1, 1]]
        assert len(server.asked) - asked == 1


def test_what_could_not_be_rated_takes_its_comparison_out_and_cuts_are_told(tmp_path):
    models = {"a": answers("1", "cut", "33", ""), "b": answers("20", "22", "5", "40")}
    judges = TextJudges([Digits()])
    numbers, pairs = compare_texts(models, PROMPTS, judges, tmp_path)
    assert pairs[0]["win_rate"] == 0.5  # 20 over 1, and 5 under 33
    report = summarize_texts(models, {"a": "A", "b": "B"}, numbers, pairs, judges, 1.0)
    assert report["models"]["a"]["scores"]["digits"] == {"mean": 17.0, "median": 17.0}
    assert report["warnings"] == [
        "1 of 4 answers of a had not ended after max_tokens and were cut.",
        "1 of 4 answers of a are empty.",
    ]
    assert list_text_warnings({"a": {"answers_cut": 0, "prompts_cut": 2, "empty": 0}}, 4) == [
        "2 prompts were longer than the context of a and lost their beginning."
    ]
    assert json.loads(json.dumps(report)) == report


def test_one_model_alone_is_rated_and_compared_with_nobody(tmp_path):
    models = {"a": answers("1", "2", "3", "4")}
    assert compare_texts(models, PROMPTS, TextJudges([Digits()]), tmp_path)[1] == []
    with pytest.raises(Refusal, match="a is the only one"):
        compare_texts(models, PROMPTS, TextJudges([], {"longer": Longer()}), tmp_path)


def test_a_model_of_which_nothing_can_be_rated_is_refused(tmp_path):
    with pytest.raises(Refusal, match="digits could rate none of the 4 answers"):
        compare_texts({"a": answers("a", "b", "c", "d")}, PROMPTS, TextJudges([Digits()]), tmp_path)


def test_somebody_has_to_judge_and_names_differ():
    with pytest.raises(Refusal, match="Nobody judges"):
        TextJudges()
    with pytest.raises(Refusal, match="digits"):
        TextJudges([Digits()], {"digits": Longer()})
