import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import moved, trained
from tiny_text import language_model, saved_language_model, token_batch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from diffpo.core.refusal import Refusal
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.model.loading import CausalLM, Quantization, load_base, load_tuned
from diffpo.text.model.lora import TextLoRA, TextWarmLoRA


@pytest.fixture
def base(tmp_path):
    return saved_language_model(tmp_path / "base")


@pytest.mark.parametrize("adapter", [None, TextLoRA(rank=2)])
def test_what_is_saved_is_what_transformers_loads(base, tmp_path, adapter):
    config, batch = CausalLM(base, adapter=adapter), token_batch()
    model = config.load()
    trained(model.network)
    model.save(tmp_path / "out")
    expected = token_logps(model.network, batch)
    assert torch.allclose(token_logps(load_tuned(config, tmp_path / "out").network, batch), expected, atol=1e-6)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.allclose(token_logps(plain, batch), expected, atol=1e-6)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "</s>"


@pytest.mark.parametrize("adapter", [None, TextLoRA(rank=2)])
def test_an_export_that_is_not_what_was_written_is_loaded_by_none_of_our_readers(base, tmp_path, adapter):
    """Its tokenizer is of it, too."""
    config, run = CausalLM(base, adapter=adapter), tmp_path / "out"
    config.load().save(run)
    named = json.loads((run / "files.json").read_text())["files"]
    weights = "model.safetensors" if adapter is None else "adapter_model.safetensors"
    settings = {"config.json"} if adapter is None else {"adapter_config.json"}
    assert {weights, "tokenizer.json", "tokenizer_config.json"} | settings <= set(named)
    warm = CausalLM(base, adapter=TextWarmLoRA(str(run))).load
    on = CausalLM(str(run))
    readers = [lambda: load_tuned(config, run), *([on.load, on.tokenizing] if adapter is None else [warm])]
    for name in (weights, "tokenizer.json"):
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        for read in readers:
            with pytest.raises(Refusal, match=f"out is not as it was written: {name} holds something else"):
                read()
        (run / name).write_bytes(content)
    for read in readers:
        read()


def test_what_an_objective_attaches_is_not_saved(base, tmp_path):
    model = CausalLM(base).load()
    model.network.add_module("verdict", nn.Linear(16, 1))
    model.save(tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)[1]
    assert not plain["unexpected_keys"]


def test_a_reference_of_full_tuning_stays_where_the_policy_began(base):
    model, batch = CausalLM(base).load(), token_batch()
    reference = model.reference()
    moved(model.network)
    assert torch.equal(reference(lambda network: token_logps(network, batch)), token_logps(language_model(), batch))


def test_the_base_has_no_dropout(base, tmp_path):
    small = GPT2Config(vocab_size=48, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    GPT2LMHeadModel(small).save_pretrained(tmp_path / "gpt")
    CausalLM(base).tokenizing().tokenizer.save_pretrained(tmp_path / "gpt")
    network, batch = CausalLM(str(tmp_path / "gpt")).load().network, token_batch()
    assert network.training
    assert torch.equal(token_logps(network, batch), token_logps(network, batch))


def test_checkpointing_activations_changes_no_gradient(base):
    batch, gradients = token_batch(), []
    for recompute in (False, True):
        network = CausalLM(base, gradient_checkpointing=recompute).load().network
        token_logps(network, batch).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert torch.allclose(*gradients, atol=1e-5)


def test_a_template_of_ones_own_replaces_the_tokenizer_s(base):
    tokenizer = CausalLM(base, chat_template="{{ 'x' }}").tokenizing().tokenizer
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "x"


def test_quantized_weights_need_an_adapter_and_bitsandbytes(base, monkeypatch):
    with pytest.raises(Refusal, match="Quantized weights cannot be trained; set base.adapter"):
        CausalLM(base, quantization=Quantization())
    monkeypatch.setattr("diffpo.text.model.loading.find_spec", lambda name: None)
    with pytest.raises(Refusal, match="needs bitsandbytes, which is not installed"):
        CausalLM(base, adapter=TextLoRA(), quantization=Quantization(8)).load()


def test_what_does_not_fit_is_refused_before_a_run(base):
    model, batch = CausalLM(base).load(), token_batch()
    model.require_fits(batch, longest=64)
    with pytest.raises(Refusal, match="data.max_length 65 is more than the 64 that"):
        model.require_fits(batch, longest=65)


def test_a_missing_padding_token_is_reported(base):
    model = CausalLM(base).load()
    assert model.report() == ""
    model.tokenizing.tokenizer.pad_token = None
    assert "no token for padding" in model.report()


def test_a_folder_without_a_language_model_is_refused_in_one_line(tmp_path):
    with pytest.raises(Refusal, match="does not hold a tokenizer that can be read"):
        CausalLM(str(tmp_path)).tokenizing()


WRAPPERS = ["_orig_mod.", "module.", "policy.", "module._orig_mod.", "_orig_mod.module."]


def one_file(state, folder):
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def shards(state, folder):
    """Every third weight in another file."""
    names = sorted(state)
    files = {f"model-{i + 1:05d}-of-00003.safetensors": names[i::3] for i in range(3)}
    for file, held in files.items():
        save_file({name: state[name] for name in held}, folder / file, {"format": "pt"})
    where = {name: file for file, held in files.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def pickled(state, folder):
    torch.save(state, folder / "pytorch_model.bin")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder, its weights in the file and in the network."""
    path = Path(saved_language_model(tmp_path_factory.mktemp("whole")))
    return path, load_file(path / "model.safetensors"), CausalLM(str(path)).load().network.state_dict()


def variant(path, folder, state, write=one_file) -> str:
    """The same folder with other weights."""
    shutil.copytree(path, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    write(state, folder)
    return str(folder)


def with_config(folder: str, **changed) -> str:
    file = Path(folder) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    return folder


def require_equal(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("write", [one_file, shards, pickled])
@pytest.mark.parametrize("wrapper", ["", *WRAPPERS])
def test_weights_are_those_of_the_whole_file_whatever_wraps_or_holds_them(whole, tmp_path, caplog, wrapper, write):
    path, state, network = whole
    folder = variant(path, tmp_path / "x", {wrapper + name: x for name, x in state.items()}, write)
    model = CausalLM(folder).load()
    require_equal(model.network.state_dict(), network)
    said = [f"{folder}: 21 names of weights lost what a wrapper had put into them, e.g. {wrapper}lm_head.weight."]
    assert caplog.messages == (said if wrapper else [])
    model.save(tmp_path / "out")
    require_equal(load_file(tmp_path / "out" / "model.safetensors"), state)


def test_layers_that_were_compiled_alone_are_those_of_the_whole_file(whole, tmp_path):
    path, state, network = whole
    compiled = {re.sub(r"(layers\.\d+\.)", r"\1_orig_mod.", name): tensor for name, tensor in state.items()}
    require_equal(CausalLM(variant(path, tmp_path / "x", compiled)).load().network.state_dict(), network)


def changed(state, way):
    """A file that is not whole, and the name that is told."""
    names = sorted(state)
    ways = {
        "the first is absent": ({name: state[name] for name in names[1:]}, names[0]),
        "the last is absent": ({name: state[name] for name in names[:-1]}, names[-1]),
        "one of another shape": (state | {names[3]: state[names[3]][:-1]}, names[3]),
        "one too many": (state | {"value.weight": state[names[0]].clone()}, "value.weight"),
        "unmerged": (
            {f"base_model.model.{n.replace('q_proj.', 'q_proj.base_layer.')}": x for n, x in state.items()},
            f"base_model.model.{names[0]}",
        ),
        "other names": (
            {name.replace("layers", "h"): x for name, x in state.items()},
            "model.h.0.input_layernorm.weight",
        ),
        "wrapped and one short": ({f"module.{name}": state[name] for name in names[1:]}, names[0]),
    }
    return ways[way]


@pytest.mark.parametrize(
    "way",
    [
        "the first is absent",
        "the last is absent",
        "one of another shape",
        "one too many",
        "unmerged",
        "other names",
        "wrapped and one short",
    ],
)
def test_weights_that_are_not_whole_are_refused_and_the_first_name_is_told(whole, tmp_path, way):
    path, state, _ = whole
    state, first = changed(state, way)
    remedy = "merge its adapters first" if way == "unmerged" else "name the file of this network"
    with pytest.raises(Refusal, match=f"does not hold a causal language model: .*the first is {first}, .*{remedy}"):
        CausalLM(variant(path, tmp_path / "x", state)).load()


@pytest.mark.parametrize(("layers", "first"), [(1, "model.layers.1"), (3, "model.layers.2")])
def test_a_config_of_another_depth_is_refused(whole, tmp_path, layers, first):
    path, state, _ = whole
    folder = with_config(variant(path, tmp_path / "x", state), num_hidden_layers=layers)
    with pytest.raises(Refusal, match=f"9 of its weights do not fit, the first is {first}"):
        CausalLM(folder).load()


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_an_output_layer_that_is_tied_may_be_absent(whole, tmp_path, wrapper):
    path, state, network = whole
    tied = {wrapper + name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
    folder = with_config(variant(path, tmp_path / "x", tied), tie_word_embeddings=True)
    found = CausalLM(folder).load().network.state_dict()
    require_equal(found, network | {"lm_head.weight": network["model.embed_tokens.weight"]})


@pytest.mark.parametrize("write", [one_file, shards, pickled])
@pytest.mark.parametrize("damage", ["pointer", "cut"])
def test_a_damaged_file_is_refused_in_one_line(whole, tmp_path, write, damage):
    path, state, _ = whole
    folder = variant(path, tmp_path / "x", state, write)
    file = next(iter(sorted([*Path(folder).glob("*.safetensors"), *Path(folder).glob("*.bin")])))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n"
    file.write_bytes(pointer if damage == "pointer" else file.read_bytes()[:-1000])
    with pytest.raises(Refusal, match=f"^{folder} does not hold a causal language model that can be read: .*$"):
        CausalLM(folder).load()


def test_weights_that_are_no_numbers_are_refused_and_named(whole, tmp_path):
    path, state, _ = whole
    broken = state | {"model.norm.weight": state["model.norm.weight"] * float("nan")}
    with pytest.raises(Refusal, match="a causal language model that is broken: model.norm.weight is not finite"):
        CausalLM(variant(path, tmp_path / "x", broken)).load()


def test_an_adapter_is_no_base(base, tmp_path):
    model = CausalLM(base, adapter=TextLoRA(rank=2)).load()
    model.save(tmp_path / "lora")
    with pytest.raises(Refusal, match=r"lora holds an adapter, not a causal.*TextWarmLoRA, or merge them"):
        CausalLM(str(tmp_path / "lora")).tokenizing()
    shutil.copytree(base, tmp_path / "both")
    for file in (tmp_path / "lora").glob("adapter*"):
        shutil.copy(file, tmp_path / "both")
    with pytest.raises(Refusal, match=r"both holds an adapter \(adapter_config.json\) beside .*; move it elsewhere"):
        CausalLM(str(tmp_path / "both")).load()


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "GPT2Tokenizer", "Qwen2Tokenizer", "GemmaTokenizer"])
def test_a_tokenizer_without_its_vocabulary_is_refused(base, kind):
    (Path(base) / "tokenizer.json").unlink()
    file = Path(base) / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": kind}))
    with pytest.raises(Refusal, match=f"The tokenizer of {base} tells no texts apart .*fetch its files again"):
        CausalLM(base).tokenizing()


def test_a_tokenizer_of_another_base_is_refused_at_the_first_text_that_shows_it(base):
    tokenizing = CausalLM(with_config(base, vocab_size=40)).tokenizing()
    tokenizing("is", "no")
    with pytest.raises(
        Refusal, match=r"gives token \d+ .*, the network has 40; name a base whose tokenizer is its own"
    ):
        tokenizing("is", "the")


def test_an_adapter_s_base_can_be_generated_with(base):
    assert not load_base(CausalLM(base, adapter=TextLoRA())).network.training
