import json
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from tiny import trained
from tiny_text import language_model, saved_language_model, token_batch
from transformers import AutoModelForCausalLM
from transformers.integrations.peft import PeftAdapterMixin

from diffpo.refusal import Refusal
from diffpo.text.adapters import TextLoRA, TextWarmLoRA
from diffpo.text.card import snippet
from diffpo.text.loading import CausalLM, LoadedCausalLM, load_tuned
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


@pytest.fixture
def no_hooks(monkeypatch):
    """What transformers puts into its networks for adapters asks for a peft that may not be out yet."""

    def demands(self, *args, **kwargs):
        raise ValueError("Please use a version >= 99.0")

    for name in [name for name in vars(PeftAdapterMixin) if "adapter" in name]:
        monkeypatch.setattr(PeftAdapterMixin, name, demands)


@pytest.mark.usefixtures("no_hooks")
def test_hooks_of_transformers_are_never_asked(tmp_path):
    first, batch = started(tmp_path), token_batch()
    warm = CausalLM(str(tmp_path / "base"), adapter=TextWarmLoRA(str(tmp_path / "lora")), gradient_checkpointing=True)
    model = warm.load()
    token_logps(model.network, batch).sum().backward()
    model.save(tmp_path / "again")
    for name in ("lora", "again"):
        again = load_tuned(warm, tmp_path / name).network
        assert torch.equal(token_logps(again, batch), token_logps(first.network, batch))
        assert not any(p.requires_grad for p in again.parameters())


def test_the_card_loads_the_policy_and_the_files_are_those_of_peft(tmp_path):
    trained_model = started(tmp_path)
    names = {path.name for path in (tmp_path / "lora").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names
    loaded = {}
    exec(snippet(trained_model.config, str(tmp_path / "lora")), loaded)
    batch = token_batch()
    there = token_logps(loaded["model"].get_base_model(), batch)
    assert torch.equal(there, token_logps(trained_model.network, batch))


def test_the_same_run_writes_the_same_bytes(tmp_path):
    def files(name):
        return {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}

    started(tmp_path).save(tmp_path / "twice")
    targets = json.loads(files("twice")["adapter_config.json"])["target_modules"]
    assert files("twice") == files("lora")
    assert targets == sorted(TextLoRA().targets)


def test_a_seed_draws_what_it_draws_with_peft_alone(tmp_path):
    path = saved_language_model(tmp_path / "base")
    ours = CausalLM(path, adapter=TextLoRA(rank=2, targets=["q_proj"])).load(seed=7).network
    torch.manual_seed(7)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="gaussian")
    theirs = dict(inject_adapter_in_model(config, language_model()).named_parameters())
    drawn = [name for name in theirs if "lora_A" in name]
    assert drawn
    assert all(torch.equal(ours.get_parameter(name), theirs[name]) for name in drawn)


BESIDE = {"modules_to_save": ["lm_head"], "trainable_token_indices": [1, 2], "layer_replication": [[0, 2], [1, 2]]}


@pytest.mark.parametrize(("field", "value"), [*BESIDE.items(), ("bias", "lora_only")])
def test_a_lora_whose_reference_could_not_be_had_is_refused(field, value, tmp_path):
    started(tmp_path)
    file = tmp_path / "lora" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    base = CausalLM(str(tmp_path / "base"), adapter=TextWarmLoRA(str(tmp_path / "lora")))
    with pytest.raises(Refusal, match=rf"more than low-rank updates \({field}\).*merge"):
        base.load()


def test_adapters_of_another_kind_are_refused(tmp_path):
    path = saved_language_model(tmp_path / "base")
    IA3Config(target_modules=["q_proj"], feedforward_modules=[]).save_pretrained(tmp_path / "ia3")
    save_file({"x": torch.zeros(1)}, tmp_path / "ia3" / "adapter_model.safetensors")
    with pytest.raises(Refusal, match="IA3; name a LoRA"):
        CausalLM(path, adapter=TextWarmLoRA(str(tmp_path / "ia3"))).load()
