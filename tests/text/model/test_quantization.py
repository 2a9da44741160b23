import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_text import token_batch
from tiny_text_runs import run_text

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.text.data.pairs import TextData
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.model.loading import CausalLM, Quantization
from diffpo.text.model.lora import TextLoRA

BITS = pytest.mark.parametrize("bits", [4, 8])
BASE = "assets/tiny-lm"


def quantized(bits) -> CausalLM:
    return CausalLM(BASE, adapter=TextLoRA(rank=2), quantization=Quantization(bits))


@BITS
def test_frozen_weights_take_few_bits_and_say_nearly_the_same(bits):
    batch = token_batch()
    whole = CausalLM(BASE).load(storage=torch.float32).network
    few = quantized(bits).load(storage=torch.float32).network
    frozen = [p for p in few.parameters() if not p.requires_grad and p.dtype in (torch.int8, torch.uint8)]
    stored = sum(p.numel() * p.element_size() for p in frozen)
    replaced = sum(p.numel() for name, p in whole.named_parameters() if "_proj" in name)
    assert stored == replaced * bits // 8
    with torch.no_grad():
        gap = token_logps(few, batch) - token_logps(whole, batch)
    assert 0 < gap.abs().mean() < 0.5


@BITS
def test_few_bits_of_wrapped_weights_are_those_of_the_whole_file(bits, tmp_path):
    shutil.copytree(BASE, tmp_path / "wrapped")
    file = tmp_path / "wrapped" / "model.safetensors"
    state = load_file(file)
    save_file({f"_orig_mod.{name}": tensor for name, tensor in state.items()}, file, {"format": "pt"})
    few = [quantized(bits).load(), replace(quantized(bits), path=str(tmp_path / "wrapped")).load()]
    assert torch.equal(*(token_logps(model.network, token_batch()) for model in few))
    del state["model.norm.weight"]
    save_file(state, file, {"format": "pt"})
    with pytest.raises(Refusal, match="1 of its weights do not fit, the first is model.norm.weight"):
        replace(quantized(bits), path=str(tmp_path / "wrapped")).load()


@BITS
def test_only_the_adapter_is_trained_through_them(bits):
    network = quantized(bits).load(storage=torch.float32).network
    token_logps(network, token_batch()).sum().backward()
    trained = {name for name, p in network.named_parameters() if p.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)
    assert any(network.get_parameter(name).grad.abs().sum() > 0 for name in trained)


@BITS
def test_a_run_writes_the_adapter_alone(bits, tmp_path):
    data = TextData(Columns("assets/tiny-rewrites/train.parquet"), max_length=64, workers=0)
    run_text(tmp_path, tmp_path / "out", base=quantized(bits), data=data)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert losses
    assert losses[-1] != pytest.approx(0.6931, abs=1e-7)
