from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from tiny_text import language_model, token_batch
from torch import nn
from torch.nn.functional import pad
from transformers import Gemma2Config, Gemma2ForCausalLM

from diffpo.core.refusal import Refusal
from diffpo.text.data.batches import TokenBatch
from diffpo.text.model.likelihoods import forward_as, require_plain_head, token_logits, token_logps
from diffpo.text.objective.preference import Desensitised, SumTokens


def naive(model: nn.Module, batch: TokenBatch) -> torch.Tensor:
    logps = token_logits(model, batch).log_softmax(-1)
    return logps.gather(-1, batch.ids[..., 1:, None]).squeeze(-1) * batch.scored[..., 1:]


def gradient(model: nn.Module, logps: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    logps.square().sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def tied() -> nn.Module:
    model = language_model()
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


def adapted() -> nn.Module:
    config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    return inject_adapter_in_model(config, language_model())


@pytest.mark.parametrize("make", [language_model, tied, adapted])
@pytest.mark.parametrize("at_once", [1, 4 * 48, 2**25])
def test_pieces_of_logits_give_the_numbers_and_gradients_of_all_at_once(make, at_once):
    model, batch = make(), token_batch(k=3)
    ours = token_logps(model, batch, at_once)
    theirs = naive(model, batch)
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)
    slope, expected = gradient(model, ours), gradient(model, theirs)
    assert (slope - expected).norm() < 1e-5 * expected.norm()


def test_never_more_logits_are_held_than_asked_for():
    model, batch, seen = language_model(), token_batch(), []
    plain = model.lm_head.forward
    with forward_as(model.lm_head, lambda states: seen.append(len(states)) or plain(states)):
        token_logps(model, batch, at_once=5 * 48).sum().backward()
    assert max(seen) == 5
    assert sum(seen) == 2 * batch.scored[..., 1:].sum()  # and once more in the backward pass


def test_the_output_layer_is_itself_again_afterwards():
    model, batch = language_model(), token_batch()
    before = token_logits(model, batch)
    token_logps(model, batch)
    assert "forward" not in vars(model.lm_head)
    assert torch.equal(token_logits(model, batch), before)


def test_padding_changes_nothing():
    model, batch = language_model().eval(), token_batch()
    tensors = {name: getattr(batch, name) for name in ("ids", "attended", "scored", "part")}
    longer = replace(batch, **{name: pad(tensor, (0, 5)) for name, tensor in tensors.items()})
    assert torch.allclose(
        token_logps(model, longer)[..., : batch.ids.shape[-1] - 1], token_logps(model, batch), atol=1e-5
    )


def test_the_layout_of_the_batch_changes_nothing():
    model, batch = language_model().eval(), token_batch()
    assert torch.allclose(token_logps(model, batch.best()), token_logps(model, batch)[:1], atol=1e-5)


def test_a_batch_without_scored_tokens_still_reaches_every_weight():
    model, batch = language_model(), token_batch()
    token_logps(model, replace(batch, scored=torch.zeros_like(batch.scored))).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_models_that_change_their_logits_are_refused():
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 48, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = Gemma2ForCausalLM(Gemma2Config(**small, **heads, final_logit_softcapping=0.01))
    with pytest.raises(Refusal, match="Gemma2ForCausalLM changes its logits after the output layer"):
        require_plain_head(model)
    require_plain_head(language_model())


def test_desensitising_with_alpha_one_is_the_sum():
    batch = token_batch()
    assert torch.equal(Desensitised(1.0).weights(batch), SumTokens().weights(batch))


def test_tokens_beyond_the_shortest_candidate_count_alpha():
    batch = token_batch(k=2, b=1, s=6, prompt=2)  # completions of 4 and 3 tokens
    assert Desensitised(0.25).weights(batch).tolist() == [[[0, 1, 1, 1, 0.25]], [[0, 1, 1, 1, 0]]]


def test_a_batch_moves_with_all_its_tensors():
    batch = replace(token_batch(), inputs={"pixel_values": torch.ones(6, 1)})
    moved = batch.to(torch.device("meta"))
    assert {x.device.type for x in (moved.ids, moved.part, moved.label.score, moved.inputs["pixel_values"])} == {
        "meta"
    }
