import pytest
import torch
from tiny_text import language_model

from diffpo.lab.rewrites.build import build_tokenizer
from diffpo.lab.rewrites.shift import estimate_shift, tokenize_answers
from diffpo.text.evaluation.shift import sum_logps
from diffpo.text.model.loading import CausalLM, load_base

ASKED = ["a red circle:", "a blue cross on navy:"]
WRITTEN = [["a small red circle", "circle"], ["a blue cross", "cross, navy backdrop"]]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root, tokenizer = tmp_path_factory.mktemp("language"), build_tokenizer()
    for seed in (0, 1):
        language_model(seed, len(tokenizer)).save_pretrained(root / str(seed))
        tokenizer.save_pretrained(root / str(seed))
    return [load_base(CausalLM(str(root / str(seed)))) for seed in (0, 1)]


def test_a_model_has_not_moved_from_itself(models):
    assert estimate_shift(models[0], models[0], ASKED, WRITTEN) == 0.0


def test_the_shift_is_the_mean_difference_of_log_likelihoods_and_turns_round_with_the_models(models):
    one, other = models
    texts = [(prompt, text) for prompt, each in zip(ASKED, WRITTEN, strict=True) for text in each]
    batch = tokenize_answers(one, texts)
    apart = sum_logps(one.network, batch) - sum_logps(other.network, batch)
    assert estimate_shift(one, other, ASKED, WRITTEN) == pytest.approx(apart.mean().item())
    assert estimate_shift(other, one, ASKED, WRITTEN) == pytest.approx(-apart.mean().item())
    assert apart.abs().max() > 1e-3


def test_a_likelihood_is_of_the_rewrite_and_its_end_given_the_prompt(models):
    model = models[0]
    batch = tokenize_answers(model, [(ASKED[0], WRITTEN[0][0])])
    logits = model.network(batch.ids[0]).logits.log_softmax(-1)[0, :-1]
    each = logits.gather(-1, batch.ids[0, 0, 1:, None])[:, 0]
    begin = len(model.tokenizing(ASKED[0], WRITTEN[0][0]).prompt)
    torch.testing.assert_close(sum_logps(model.network, batch)[0], each[begin - 1 :].sum())
