from math import sqrt

import pytest
import torch
from tiny_text import language_model, token_batch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.text.model.likelihoods import token_logits
from diffpo.text.objective.masks import (
    PART,
    ActivationMask,
    CommonMask,
    EveryToken,
    LearnedMasks,
    MaskNetwork,
    mean_logit,
    scale_scored,
)

BATCH = token_batch()
SCORED = BATCH.scored[..., 1:]


def network(seed=0):
    return MaskNetwork(2, 4, torch.Generator().manual_seed(seed))


def learned(mask, seed=0):
    """A policy with its masks attached, and what they are."""
    policy = language_model()
    reference = FrozenCopy(policy)
    mask.attach(policy, seed)
    return policy, mask(policy, reference, BATCH)


def test_scaled_by_hand():
    x, scored = torch.tensor([[[9.0, 2, 4, 3, -5]]]), torch.tensor([[[False, True, True, True, False]]])
    assert torch.equal(scale_scored(x, scored), torch.tensor([[[0, 0, 1, 0.5, 0]]]))


def test_scaled_once_is_scaled_after_standardizing():
    """The z-normalization of the authors' code changes nothing: what follows undoes any shift and scale."""
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(scale_scored(x, SCORED), scale_scored((x - 0.3) / 1.7, SCORED))


def test_one_token_is_scaled_to_zero():
    assert not scale_scored(torch.ones(1, 1, 2), torch.tensor([[[True, False]]])).any()


def test_activation_mask_lies_between_0_and_1_and_has_no_gradient():
    policy = language_model()
    masks = ActivationMask()(policy, FrozenCopy(policy), BATCH)
    assert masks.ratio is masks.divergence
    assert not masks.ratio.requires_grad
    assert not masks.cost.any()
    assert not masks.ratio[~SCORED].any()
    assert 0 <= masks.ratio.min() < masks.ratio.max() <= 1


def test_activation_mask_is_the_mean_over_kinds_of_means_over_layers():
    policy = language_model()
    with torch.no_grad():
        output = policy(BATCH.ids.flatten(0, 1), BATCH.attended.flatten(0, 1).long(), output_hidden_states=True)
    of = lambda x: scale_scored(x.mean(-1)[:, :-1].unflatten(0, (2, 3)), SCORED)  # noqa: E731
    layers = (of(output.hidden_states[1]) + of(output.hidden_states[2])) / 2
    blocks = []
    for layer in policy.model.layers:
        layer.mlp.register_forward_hook(lambda block, inputs, out: blocks.append(out))
    token_logits(policy, BATCH)
    mlp = (of(blocks[0].detach()) + of(blocks[1].detach())) / 2
    mask = ActivationMask(blocks=("mlp",))(policy, FrozenCopy(policy), BATCH).ratio
    torch.testing.assert_close(mask, (layers + mlp + of(output.logits)) / 3)


def test_mean_logit_is_the_mean_over_the_vocabulary_up_to_a_constant():
    head, states = nn.Linear(4, 6), torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    apart = head(states).mean(-1, keepdim=True) - mean_logit(head, states)
    torch.testing.assert_close(apart, head.bias.mean().expand(2, 3, 1))


def test_activation_mask_reads_networks_with_other_names_and_leaves_no_hook():
    sizes = {"vocab_size": 48, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
    gpt2 = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)).eval()
    mask = ActivationMask(blocks=("mlp", "attn")).of(gpt2, BATCH)
    assert mask.max() > 0
    assert not gpt2.transformer.h[0].mlp._forward_hooks


def test_a_block_that_is_not_there_is_named():
    policy = language_model()
    with pytest.raises(Refusal, match="no module named 'attn' in LlamaForCausalLM"):
        ActivationMask(blocks=("attn",))(policy, FrozenCopy(policy), BATCH)


def test_every_token_counts_one():
    masks = EveryToken()(nn.Identity(), FrozenCopy(nn.Identity()), BATCH)
    assert torch.equal(masks.ratio, SCORED.float())
    assert torch.equal(masks.divergence, SCORED.float())


def test_mask_network_by_hand():
    """norm(1, -1) = (1, -1): heights relu(2 + 0.5) = 2.5 and relu(-3 + 1) = 0, mixed by 0.4 and 7."""
    net = MaskNetwork(2, 2, torch.Generator())
    net.w.data, net.c.data, net.v.data = (
        torch.tensor([[1.0, -1], [-3, 0]]),
        torch.tensor([0.5, 1]),
        torch.tensor([0.4, 7]),
    )
    hidden = torch.tensor([[[1.0, -1]], [[1, -1]]])
    torch.testing.assert_close(net(hidden), torch.tensor([1.0]), atol=1e-4, rtol=0)


def test_mask_network_starts_alike_for_a_seed_and_alive():
    assert torch.equal(network(3).w, network(3).w)
    assert not torch.equal(network(3).w, network(4).w)
    assert network().v.min() >= 0
    assert network().w.abs().max() <= 1 / sqrt(4)


def test_learned_masks_are_trained_with_the_policy_and_pay_for_what_they_let_through():
    policy, masks = learned(LearnedMasks(l1=0.01))
    assert not masks.ratio[~SCORED].any()
    assert not torch.equal(masks.ratio, masks.divergence)
    torch.testing.assert_close(masks.cost, 0.01 * (masks.ratio + masks.divergence).sum((0, 2)))
    masks.cost.sum().backward()
    assert all(p.grad.any() for p in policy.get_submodule(PART).parameters())
    assert policy.lm_head.weight.grad is None


def test_a_common_mask_is_one_and_pays_once():
    policy, masks = learned(CommonMask(l1=0.01))
    assert len(policy.get_submodule(PART)) == 1
    assert masks.ratio is masks.divergence
    torch.testing.assert_close(masks.cost, 0.01 * masks.ratio.sum((0, 2)))


def test_masks_read_the_reference_and_not_the_policy():
    policy, before = learned(LearnedMasks())
    reference = FrozenCopy(language_model())
    policy.lm_head.weight.data.mul_(2)
    policy.model.norm.weight.data.mul_(2)
    assert torch.equal(LearnedMasks()(policy, reference, BATCH).ratio, before.ratio)
