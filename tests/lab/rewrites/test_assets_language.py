from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from diffpo.evaluation.prompts import Prompts
from diffpo.lab.rewrites.oracle import RewriteOracle, read_rewrite, utility
from diffpo.lab.rewrites.requests import EVALUATION_REQUEST, prompt, split_requests
from diffpo.lab.rewrites.writing import Writing, write
from diffpo.lab.shapes.captions import read_caption

ASSETS = Path("assets")
REWRITES = ASSETS / "tiny-rewrites"


@pytest.fixture(scope="module")
def pairs():
    return Dataset.from_parquet(str(REWRITES / "train.parquet"))


def prompts(part: str) -> list[str]:
    return [record["prompt"] for record in Prompts(str(REWRITES / "prompts" / f"{part}.jsonl")).read()]


def test_model_and_pairs_are_small():
    assert (ASSETS / "tiny-lm" / "model.safetensors").stat().st_size < 10e6
    assert (REWRITES / "train.parquet").stat().st_size < 1e6


def test_the_model_writes_captions_and_is_not_always_faithful():
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny-lm")
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "tiny-lm")
    asked = prompts("evaluation")
    written = write(model, tokenizer, asked, Writing(rewrites=2))
    oracle, rewrites = RewriteOracle(), [text for texts in written for text in texts]
    said = oracle.aspects([prompt for prompt in asked for _ in range(2)], rewrites)
    assert said["clean"].mean() > 0.9
    assert 0.75 < said["attributes"].mean() < 0.95
    assert said["style"].mean() < 0.5


def test_pairs_are_many_and_some_are_ties(pairs):
    ties = sum(row["prob"] == 0.5 for row in pairs)
    assert len(pairs) > 2900
    assert 0.02 < ties / len(pairs) < 0.3


def test_labels_follow_the_hidden_utility_but_not_always(pairs):
    agree = []
    for row in pairs.select(range(500)):
        asked = read_caption(row["prompt"])
        chosen, rejected = (utility(asked, read_rewrite(row[side])) for side in ("chosen", "rejected"))
        if row["prob"] == 1 and chosen != rejected:
            agree.append(chosen > rejected)
    assert 0.75 < np.mean(agree) < 0.95


def test_scores_are_the_ratings_that_decided(pairs):
    scores = np.array([[row["score_chosen"], row["score_rejected"]] for row in pairs])
    assert (scores[:, 0] > scores[:, 1]).all()


def test_no_request_of_a_prompt_set_is_in_the_pairs_or_in_the_other_set(pairs):
    parts = [{read_caption(prompt) for prompt in prompts(part)} for part in ("development", "evaluation")]
    trained = {read_caption(row["prompt"]) for row in pairs}
    assert not parts[0] & parts[1]
    assert not trained & (parts[0] | parts[1])
    assert [len(part) for part in parts] == [64, 100]


def test_shipped_prompts_are_those_of_the_split():
    split = split_requests(0)
    assert prompts("evaluation") == [prompt(asked, EVALUATION_REQUEST) for asked in split.evaluation]
    assert [read_caption(text) for text in prompts("development")] == split.development
