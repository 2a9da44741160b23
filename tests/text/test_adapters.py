from pathlib import Path

import pytest
import torch
from tiny import trained
from tiny_text import saved_language_model, token_batch
from transformers import AutoModelForCausalLM

from diffpo.refusal import Refusal
from diffpo.text.adapters import TextLoRA, TextWarmLoRA
from diffpo.text.loading import CausalLM, LoadedCausalLM
from diffpo.text.sequences import token_logps


def started(tmp_path: Path) -> LoadedCausalLM:
    """A LoRA that has moved, saved in `lora`."""
    model = CausalLM(saved_language_model(tmp_path / "base"), adapter=TextLoRA(rank=2)).load()
    trained(model.network)
    model.save(tmp_path / "lora")
    return model


def test_adapters_switched_off_are_the_base_bit_for_bit(tmp_path):
    model, batch = started(tmp_path), token_batch()
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    score = lambda network: token_logps(network, batch)  # noqa: E731
    assert torch.equal(model.reference()(score), score(base))
    assert not torch.equal(score(model.network), score(base))


def test_a_warm_lora_starts_as_its_own_reference(tmp_path):
    batch, score = token_batch(), lambda network: token_logps(network, batch)
    first = score(started(tmp_path).network)
    base = CausalLM(str(tmp_path / "base"), adapter=TextWarmLoRA(str(tmp_path / "lora")))
    warm = base.load()
    assert torch.allclose(score(warm.network), first, atol=1e-6)
    assert torch.equal(warm.reference()(score), score(warm.network))
    trained(warm.network)
    assert torch.allclose(warm.reference()(score), first, atol=1e-6)
    assert not torch.allclose(score(warm.network), first, atol=1e-3)


def test_layers_that_are_not_there_are_named(tmp_path):
    base = CausalLM(saved_language_model(tmp_path / "base"), adapter=TextLoRA(targets=["c_attn"]))
    with pytest.raises(Refusal, match="LlamaForCausalLM has no layer 'c_attn'.*down_proj, gate_proj"):
        base.load()


def test_a_folder_without_lora_is_refused(tmp_path):
    path = saved_language_model(tmp_path / "base")
    with pytest.raises(Refusal, match="does not hold a LoRA"):
        CausalLM(path, adapter=TextWarmLoRA(path)).load()
