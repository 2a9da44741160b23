import json
import shutil
from pathlib import Path
from random import Random

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from tiny import trained
from tiny_text import language_model, saved_language_model, token_batch
from transformers import AutoModelForCausalLM
from transformers.integrations.peft import PeftAdapterMixin

from diffpo.core.refusal import Refusal
from diffpo.text.model.likelihoods import token_logits, token_logps
from diffpo.text.model.loading import CausalLM, LoadedCausalLM, load_base, load_tuned
from diffpo.text.model.lora import OUTER, TextLoRA, TextWarmLoRA
from diffpo.text.model.model_card import write_text_snippet


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
    exec(write_text_snippet(trained_model.config, str(tmp_path / "lora")), loaded)
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


def test_adapters_of_a_kind_that_peft_does_not_know_are_refused(tmp_path):
    started(tmp_path)
    with pytest.raises(Refusal, match="installed peft knows no adapters of kind 'NEWER'"):
        warm(tmp_path / "base", config_of(tmp_path / "lora", peft_type="NEWER"))


def warm(base: Path, folder: Path) -> LoadedCausalLM:
    return CausalLM(str(base), adapter=TextWarmLoRA(str(folder))).load()


def config_of(folder: Path, **changed) -> Path:
    """The same folder with another config."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    return folder


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"r": "2"}, "r = '2'"),
        ({"lora_alpha": "16"}, "lora_alpha = '16'"),
        ({"lora_dropout": None}, "lora_dropout = None"),
        ({"rank_pattern": {"q_proj": "4"}}, "rank_pattern of q_proj = '4'"),
    ],
)
def test_a_number_of_a_config_that_is_none_is_told(tmp_path, changed, said):
    started(tmp_path)
    with pytest.raises(Refusal, match=rf"has {said}, which is no number; write it as one in its adapter_config.json"):
        warm(tmp_path / "base", config_of(tmp_path / "lora", **changed))


BLOCK = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
OTHERS = ["embed_tokens", "lm_head", "layers.0.mlp.up_proj", "layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[bool, Path]:
    """By whether the output layer is tied to the embeddings."""
    folders = {tied: tmp_path_factory.mktemp("bases") / str(tied) for tied in (False, True)}
    for tied, folder in folders.items():
        saved_language_model(folder)
        state = load_file(folder / "model.safetensors")
        if tied:
            file = folder / "config.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"tie_word_embeddings": True}))
            del state["lm_head.weight"]
            save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folders


@pytest.mark.parametrize("seed", range(10))
def test_what_is_saved_is_the_policy_wherever_it_is_loaded(bases, tmp_path, seed):
    """Of random layers, ranks and scales: by peft, by our evaluation, trained further, and merged into its base."""
    rng = Random(seed)
    tied = rng.random() < 0.3
    targets = rng.sample(BLOCK, rng.randrange(4)) + rng.sample(OTHERS, rng.randrange(1, 3))
    alpha = rng.choice([None, 1.0, 3.0, 16.0])
    config = CausalLM(str(bases[tied]), adapter=TextLoRA(rank=rng.choice([1, 2, 5, 20]), alpha=alpha, targets=targets))
    model, batch = config.load(seed=seed), token_batch(seed=seed)
    trained(model.network)
    model.save(tmp_path / "one")
    model.save(tmp_path / "two")
    assert {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "two").iterdir()
    }
    count = sum(parameter.requires_grad for parameter in model.network.parameters())
    assert len(load_file(tmp_path / "one" / "adapter_model.safetensors")) == count

    policy = token_logits(model.network, batch)
    base = load_base(config).network
    assert not torch.allclose(token_logits(base, batch), policy, atol=1e-4)
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "one"))
    tuned, further = load_tuned(config, tmp_path / "one"), warm(bases[tied], tmp_path / "one")
    for network in (theirs.get_base_model(), tuned.network, further.network):
        assert torch.allclose(token_logits(network, batch), policy, atol=1e-6)
    further.save(tmp_path / "again")
    assert torch.allclose(token_logits(load_tuned(config, tmp_path / "again").network, batch), policy, atol=1e-6)
    if tied and {"embed_tokens", "lm_head"} & {*targets}:
        return  # peft says itself that it cannot merge these
    merged = theirs.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    model.tokenizing.tokenizer.save_pretrained(tmp_path / "merged")
    assert torch.allclose(token_logits(CausalLM(str(tmp_path / "merged")).load().network, batch), policy, atol=1e-6)


@pytest.mark.parametrize(
    "more",
    [
        {"target_modules": "all-linear"},
        {"target_modules": r".*layers\.0.*(q|v)_proj"},
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
        {"use_rslora": True, "lora_alpha": 3},
        {"use_dora": True, "target_modules": ["q_proj", "up_proj"]},
        {"rank_pattern": {"v_proj": 3}, "alpha_pattern": {"q_proj": 7}},
        {"lora_bias": True},
        {"layers_to_transform": [1]},
        {"init_lora_weights": "orthogonal"},
    ],
    ids=str,
)
def test_a_lora_that_peft_trained_is_taken_up_as_it_is(bases, tmp_path, more):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = load_base(CausalLM(str(bases[False]))).network
        policy = get_peft_model(network, LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"]} | more))
    trained(policy)
    policy.save_pretrained(tmp_path)
    batch, model = token_batch(), warm(bases[False], tmp_path)
    expected = token_logps(policy.get_base_model(), batch)
    assert torch.allclose(token_logps(model.network, batch), expected, atol=1e-6)
    assert torch.allclose(model.reference()(lambda network: token_logps(network, batch)), expected, atol=1e-6)


WAYS = {
    "_orig_mod.": lambda name: name.replace(OUTER, f"{OUTER}_orig_mod."),
    "module.": lambda name: name.replace(OUTER, f"{OUTER}module."),
    "before all": lambda name: f"module._orig_mod.{name}",
    "each layer": lambda name: name.replace("layers.1.", "layers.1._orig_mod."),
    "the adapter's name": lambda name: name.replace(".weight", ".default.weight"),
    "another name": lambda name: name.replace(".weight", ".sft.weight"),
    "all": lambda name: f"module.{name.replace(OUTER, f'{OUTER}_orig_mod.').replace('.weight', '.x.weight')}",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory, bases):
    """A folder with a LoRA, its weights, and what the policy says."""
    model = CausalLM(str(bases[False]), adapter=TextLoRA(rank=2)).load()
    trained(model.network)
    folder = tmp_path_factory.mktemp("saved")
    model.save(folder)
    return folder, load_file(folder / "adapter_model.safetensors"), token_logps(model.network, token_batch())


def variant(folder: Path, into: Path, state) -> Path:
    shutil.copytree(folder, into)
    save_file({name: x.clone().contiguous() for name, x in state.items()}, into / "adapter_model.safetensors")
    return into


@pytest.mark.parametrize("way", WAYS)
def test_names_that_wrappers_changed_are_the_same_adapters_and_told_once(bases, saved, tmp_path, caplog, way):
    folder, state, expected = saved
    renamed = {WAYS[way](name): tensor for name, tensor in state.items()}
    model = warm(bases[False], variant(folder, tmp_path / "x", renamed))
    whole = warm(bases[False], folder)
    assert all(map(torch.equal, model.network.state_dict().values(), whole.network.state_dict().values()))
    assert torch.equal(token_logps(model.network, token_batch()), expected)
    changed = sum(WAYS[way](name) != name for name in state)
    assert [message.partition(" names")[0] for message in caplog.messages] == [f"{tmp_path / 'x'}: {changed}"]


def test_names_without_peft_s_own_prefix_are_the_same_adapters(bases, saved, tmp_path, caplog):
    folder, state, expected = saved
    bare = {name.removeprefix(OUTER): tensor for name, tensor in state.items()}
    model = warm(bases[False], variant(folder, tmp_path / "x", bare))
    assert torch.equal(token_logps(model.network, token_batch()), expected)
    assert not caplog.messages


FIRST = "model.layers.0.mlp.down_proj.lora_A.weight"
BROKEN = {
    "half of the layers": (
        lambda state: {name: x for name, x in state.items() if "layers.0" in name},
        "14 of its weights do not fit, the first is model.layers.1.mlp.down_proj.lora_A.weight",
    ),
    "one short": (
        lambda state: dict(sorted(state.items())[1:]),
        f"1 of its .* first is {FIRST}, which has shape none",
    ),
    "one too many": (
        lambda state: state | {"x.lora_A.weight": torch.ones(1)},
        "1 of its .* the first is x.lora_A.weight",
    ),
    "another architecture": (
        lambda state: {name.replace("model.layers", "transformer.h"): x for name, x in state.items()},
        f"56 of its weights do not fit, the first is {FIRST}",
    ),
    "another width": (
        lambda state: {name: x[:, :9] if "lora_A" in name else x for name, x in state.items()},
        rf"14 .* first is {FIRST}, which has shape \(2, 9\) and should have \(2, 32\)",
    ),
    "another rank": (
        lambda state: {name: x[:1] if "lora_A" in name else x[:, :1] for name, x in state.items()},
        rf"28 .* first is {FIRST}, which has shape \(1, 32\) and should have \(2, 32\)",
    ),
    "nothing": (lambda state: {}, f"28 of its weights do not fit, the first is {FIRST}"),
}


@pytest.mark.parametrize("way", BROKEN)
def test_adapters_that_are_not_whole_are_refused_and_the_first_name_is_told(bases, saved, tmp_path, way):
    folder, state, _ = saved
    change, said = BROKEN[way]
    with pytest.raises(
        Refusal, match=f"does not hold a LoRA of this LlamaForCausalLM: {said}.*; name the file of this"
    ):
        warm(bases[False], variant(folder, tmp_path / "x", change(state)))


def test_adapters_that_are_there_twice_are_refused(bases, saved, tmp_path):
    folder, state, _ = saved
    twice = state | {name.replace(".weight", ".default.weight"): x for name, x in state.items()}
    with pytest.raises(Refusal, match=r"holds model\..*lora_A.weight twice, under two names"):
        warm(bases[False], variant(folder, tmp_path / "x", twice))


def test_adapters_of_no_number_are_refused_and_named(bases, saved, tmp_path):
    folder, state, _ = saved
    broken = {name: x * float("inf") for name, x in state.items()}
    with pytest.raises(Refusal, match="that is broken: base_model.model.model.layers.0.*lora_A.weight is not finite"):
        warm(bases[False], variant(folder, tmp_path / "x", broken))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"target_modules": ["c_attn"]},
            "cannot take the adapters of .*c_attn.*name other layers, or adapters of this",
        ),
        ({"target_modules": [*BLOCK, "lm_head"]}, "2 of its weights do not fit, the first is lm_head.lora_A.weight"),
        ({"target_modules": BLOCK[:6]}, f"4 of its weights do not fit, the first is {FIRST}"),
        ({"r": 3}, r"has shape \(2, 32\) and should have \(3, 32\)"),
        ({"use_dora": True}, "lora_magnitude_vector, which has shape none"),
        ({"init_lora_weights": "pissa"}, "began as pissa, which changes the base's own weights; merge it"),
    ],
    ids=str,
)
def test_a_config_of_other_adapters_is_refused(bases, saved, tmp_path, changed, said):
    folder, state, _ = saved
    with pytest.raises(Refusal, match=said):
        warm(bases[False], config_of(variant(folder, tmp_path / "x", state), **changed))


@pytest.mark.parametrize("damage", ["adapter_model.safetensors", "adapter_config.json"])
def test_damaged_files_are_refused_in_one_line(bases, saved, tmp_path, damage):
    folder, state, _ = saved
    file = variant(folder, tmp_path / "x", state) / damage
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(Refusal, match="does not hold a LoRA of this LlamaForCausalLM that can be read"):
        warm(bases[False], tmp_path / "x")


def test_layers_that_can_have_no_adapters_are_refused_in_one_line(bases):
    with pytest.raises(
        Refusal, match=r"cannot take the adapters of base.adapter \(input_layernorm\): .*not supported"
    ):
        CausalLM(str(bases[False]), adapter=TextLoRA(targets=["input_layernorm"])).load()
