import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from tiny_text import language_model, token_batch
from torch.nn.functional import kl_div

from diffpo.core.references import FrozenCopy, SwitchedOff
from diffpo.text.model.likelihoods import token_logits, token_logps
from diffpo.text.objective.divergence import compare_tokens
from diffpo.train.adapters import adapters_off

BATCH = token_batch()
SCORED = BATCH.scored[..., 1:]


def naive(policy, reference):
    log_p, log_r = token_logits(policy, BATCH).log_softmax(-1), token_logits(reference, BATCH).log_softmax(-1)
    return kl_div(log_p, log_r, log_target=True, reduction="none").sum(-1) * SCORED


def with_lora():
    """Adapters that do something, on attention and on the output layer."""
    config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    return inject_adapter_in_model(config, language_model())


def test_likelihoods_are_those_of_the_plain_way():
    policy, other = language_model(0), language_model(1)
    both = compare_tokens(policy, FrozenCopy(other), BATCH, SCORED)
    torch.testing.assert_close(both.policy, token_logps(policy, BATCH))
    torch.testing.assert_close(both.reference, token_logps(other, BATCH))
    assert not both.reference.requires_grad


@pytest.mark.parametrize("at_once", [1, 200, 2**25])
def test_divergence_and_gradient_are_those_of_whole_distributions(at_once):
    policy, other = language_model(0), language_model(1)
    twin = copy.deepcopy(policy)
    divergence = compare_tokens(policy, FrozenCopy(other), BATCH, SCORED, at_once).divergence
    whole = naive(twin, other)
    torch.testing.assert_close(divergence, whole)
    divergence.square().sum().backward()
    whole.square().sum().backward()
    for mine, plain in zip(policy.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, plain.grad)


def test_divergence_of_a_model_from_itself_is_zero_and_pulls_nowhere():
    policy = language_model()
    divergence = compare_tokens(policy, FrozenCopy(policy), BATCH, SCORED).divergence
    divergence.sum().backward()
    assert not divergence.any()
    assert max(p.grad.abs().max() for p in policy.parameters()) < 1e-6


def test_divergence_is_nowhere_negative():
    assert (compare_tokens(language_model(0), FrozenCopy(language_model(1)), BATCH, SCORED).divergence >= 0).all()


def test_divergence_is_computed_where_it_is_asked_for():
    where = SCORED.clone()
    where[1] = False
    policy, reference = language_model(0), FrozenCopy(language_model(1))
    some, every = compare_tokens(policy, reference, BATCH, where), compare_tokens(policy, reference, BATCH, SCORED)
    assert torch.equal(some.divergence, every.divergence * where)
    assert torch.equal(some.policy, every.policy)


@pytest.mark.parametrize("at_once", [1, 2**25])
def test_reference_may_be_the_policy_with_its_adapters_off(at_once):
    policy, base = with_lora(), language_model()
    twin = copy.deepcopy(policy)
    both = compare_tokens(policy, SwitchedOff(policy, adapters_off), BATCH, SCORED, at_once)
    copied = compare_tokens(twin, FrozenCopy(base), BATCH, SCORED)
    for mine, theirs in zip(both, copied, strict=True):
        torch.testing.assert_close(mine, theirs)
    (both.divergence - both.policy).sum().backward()
    (copied.divergence - copied.policy).sum().backward()
    trained = [
        (mine, theirs)
        for mine, theirs in zip(policy.parameters(), twin.parameters(), strict=True)
        if mine.requires_grad
    ]
    assert trained
    for mine, theirs in trained:
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_the_output_layer_is_as_it_was():
    policy = language_model()
    before = token_logits(policy, BATCH)
    compare_tokens(policy, FrozenCopy(policy), BATCH, SCORED)
    assert "forward" not in vars(policy.lm_head)
    assert torch.equal(token_logits(policy, BATCH), before)
