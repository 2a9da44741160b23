"""Reward models and rating chat models as scorers of texts."""

import math

import pytest
import torch
from tiny_text import VOCABULARY, tokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification

from diffpo.core.refusal import Refusal
from diffpo.text.evaluation.scorers import EndpointRating, PretrainedReward


def saved(folder, labels: int = 1) -> str:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        pad_token_id=0,
        num_labels=labels,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    return PretrainedReward(saved(tmp_path_factory.mktemp("reward")), device="cpu")


def test_a_score_is_the_logit_of_the_conversation_whatever_the_batch(scorer):
    prompts, answers = ["is it", [{"role": "user", "content": "what"}]], ["yes", "no the no"]
    found = scorer(prompts, answers)
    for i, (asked, said) in enumerate([("is it", "yes"), ("what", "no the no")]):
        ids = tokenizer()(f"<s><u>{asked}\n<a>{said}</s>", add_special_tokens=False, return_tensors="pt").input_ids
        assert found[i].item() == pytest.approx(scorer.network(ids).logits.item(), abs=1e-6)


def test_what_is_longer_than_it_reads_is_counted_and_loses_its_beginning(scorer):
    assert scorer.count_long(["a", "b"], ["yes", "a" * 40]) == 1
    assert scorer(["a"], ["y" * 40]).item() == scorer(["b"], ["y" * 40]).item()


def test_a_classifier_of_several_classes_is_no_reward_model(tmp_path):
    with pytest.raises(Refusal, match="tells 3 classes apart"):
        PretrainedReward(saved(tmp_path, labels=3), device="cpu").check([])


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("7", 7),
        ("Of 10 points:\n8.5", 8.5),
        ("Score: 9/10", None),
        ("11", None),
        ("", None),
        ("good", None),
        ("**6**", 6),
    ],
)
def test_the_only_number_of_the_last_line_counts(said, number):
    found = EndpointRating("m").number(said)
    assert math.isnan(found) if number is None else found == number


def test_neither_prompt_nor_answer_can_stand_for_the_other():
    scorer = EndpointRating("m", instruction="{prompt}|{answer}")
    assert scorer.question("{answer}", "{prompt}") == "{answer}|{prompt}"
    with pytest.raises(Refusal, match="without {answer}"):
        EndpointRating("m", instruction="{prompt}")


def test_the_identity_says_who_rates_and_how():
    about = EndpointRating("m").identity
    assert (about["scorer"], about["model_id"], about["version"], about["temperature"]) == (
        "rating",
        "m",
        "1 to 10",
        0.0,
    )
