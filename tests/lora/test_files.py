import json
import logging
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import save_file
from tiny import pipeline, unet, unet_xl
from tiny_loras import LAYOUTS, PEFT, WRAPPED, layers_of, peft_of, saved_layers, settings_of, written

import diffpo.lora.files
from diffpo.core.refusal import Refusal
from diffpo.lora.files import CONFIG, METADATA, Layer, locate_lora, parse_lora, read_lora
from diffpo.lora.layers import peft_settings

SD, XL = unet(), unet_xl()
Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = {f"text_encoder.encoder.layers.0.self_attn.q_proj.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}


def alike(found: dict[str, Layer], wanted: dict[str, Layer]) -> None:
    assert found.keys() == wanted.keys()
    for name, layer in wanted.items():
        mine = found[name]
        assert torch.equal(mine.down, layer.down)
        assert torch.equal(mine.up, layer.up)
        assert mine.alpha == pytest.approx(layer.alpha)
        assert (mine.magnitude is None) == (layer.magnitude is None)
        assert layer.magnitude is None or torch.equal(mine.magnitude, layer.magnitude)


def refused(path: str, network=SD) -> str:
    with pytest.raises(Refusal) as error:
        read_lora(path, {"unet": network})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    return str(error.value)


@pytest.mark.parametrize("network", [SD, XL], ids=["sd", "xl"])
@pytest.mark.parametrize("layout", LAYOUTS | WRAPPED)
def test_every_layout_is_read_whole_with_the_alpha_of_each_layer(tmp_path, caplog, network, layout):
    layers = layers_of(network)
    with caplog.at_level(logging.WARNING):
        found = read_lora(saved_layers(tmp_path / "a.safetensors", layers, layout), {"unet": network})
    alike(found.parts["unet"], layers)
    assert found.others == ()
    told = [record.message for record in caplog.records]
    assert len(told) == (layout in WRAPPED)
    assert all("names of weights lost what a wrapper had put into them, e.g. " in line for line in told)


@pytest.mark.parametrize("layout", ["peft's names", "peft", "kohya", "kohya for SDXL"])
def test_the_magnitudes_of_a_dora_are_read(tmp_path, layout):
    layers = layers_of(XL, dora=True)
    alike(read_lora(saved_layers(tmp_path / "a.safetensors", layers, layout), {"unet": XL}).layers, layers)


def test_without_a_network_layers_are_named_as_in_the_file(tmp_path):
    layers = layers_of(SD, ("to_q", "to_out.0", "conv_in"))
    for layout in ("peft's names", "attention processors", "no network"):
        alike(read_lora(saved_layers(tmp_path / "a.safetensors", layers, layout), {"unet": None}).layers, layers)
    found = read_lora(saved_layers(tmp_path / "b.safetensors", layers, "kohya"), {"unet": None}).layers
    alike(found, {name.replace(".", "_"): layer for name, layer in layers.items()})


def test_matrices_of_convolutions_of_one_pixel_may_be_flat(tmp_path):
    layers = layers_of(SD, ("proj_in", "conv_shortcut"))
    flat = {name: Layer(layer.down.flatten(1), layer.up.flatten(1), layer.alpha) for name, layer in layers.items()}
    alike(read_lora(saved_layers(tmp_path / "a.safetensors", flat), {"unet": SD}).layers, layers)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_keep_their_type(dtype):
    state = {name: tensor.to(dtype) for name, tensor in written(layers_of(SD), PEFT).items()}
    assert {layer.up.dtype for layer in parse_lora("it", state, None, {"unet": SD}).layers.values()} == {dtype}


def test_an_alpha_that_nobody_tells_is_the_rank_and_that_is_told(tmp_path, caplog):
    layers = layers_of(SD, rank=3)
    state = written(layers, LAYOUTS["kohya"])
    for name in sorted(state)[::6]:  # the alphas of every second layer
        state.pop(name)
    save_file(state, tmp_path / "a.safetensors")
    with caplog.at_level(logging.WARNING):
        found = read_lora(str(tmp_path / "a.safetensors"), {"unet": SD}).layers
    guessed = {name for name in layers if f"lora_unet_{name.replace('.', '_')}.alpha" not in state}
    assert 0 < len(guessed) < len(layers)
    assert all(found[name].alpha == (3 if name in guessed else layers[name].alpha) for name in layers)
    [record] = caplog.records
    assert f"{len(guessed)} of {len(layers)} layers say no alpha; it is taken to be their rank" in record.message


def test_alphas_of_pefts_folder_are_in_its_config(tmp_path):
    layers = layers_of(SD)
    save_file(written(layers, LAYOUTS["peft"]), tmp_path / "adapter_model.safetensors")
    (tmp_path / CONFIG).write_text(json.dumps(peft_settings(layers, 0.25)))
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        found = read_lora(str(path), {"unet": SD})
        alike(found.layers, layers)
        assert found.dropout == 0.25


def test_rank_stabilized_updates_are_scaled_by_the_root_of_the_rank():
    layers = layers_of(SD, alphas=(4.0,))
    settings = peft_settings(layers) | {"use_rslora": True}
    found = parse_lora("it", written(layers, PEFT), settings, {"unet": SD}).layers
    assert {layer.alpha for layer in found.values()} == {4.0 * 2**0.5}


def test_settings_are_taken_of_the_network_they_are_for():
    encoder, layers = pipeline().text_encoder, layers_of(SD, alphas=(5.0,))
    texts = layers_of(encoder, ("q_proj",), alphas=(7.0,))
    settings = {"text_encoder.lora_alpha": 7, "unet.lora_alpha": 5, "unet.lora_dropout": 0.5}
    state = written(layers, PEFT) | written(texts, peft_of("text_encoder."))
    found = parse_lora("it", state, settings, {"unet": SD, "text_encoder": encoder})
    alike(found.layers, layers)
    alike(found.parts["text_encoder"], texts)
    assert found.dropout == 0.5
    alone = parse_lora("it", state, settings, {"unet": SD})
    assert alone.others == tuple(sorted(written(texts, peft_of("text_encoder."))))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("init_lora_weights", "pissa_niter_4"),
        ("layer_replication", [[0, 4]]),
        ("trainable_token_indices", [5]),
        ("use_qalora", True),
        ("peft_type", "LOHA"),
    ],
)
def test_settings_that_change_more_than_the_weights_say_are_refused(tmp_path, name, value):
    layers = layers_of(SD)
    save_file(
        written(layers, PEFT),
        tmp_path / "a.safetensors",
        {METADATA: json.dumps(peft_settings(layers) | {name: value})},
    )
    assert f"made with {name}: {value}" in refused(str(tmp_path / "a.safetensors"))


def test_a_text_encoder_is_read_beside_the_unet_or_named(tmp_path):
    encoder, layers = pipeline().text_encoder, layers_of(SD)
    texts = layers_of(encoder, ("q_proj", "fc1"))
    clip = {f"text_model.{name}": layer for name, layer in texts.items()}
    state = written(layers, LAYOUTS["kohya"])
    state |= {name.replace("_unet_", "_te_"): x for name, x in written(clip, LAYOUTS["kohya"]).items()}
    save_file(state, tmp_path / "a.safetensors")
    both = read_lora(str(tmp_path / "a.safetensors"), {"unet": SD, "text_encoder": encoder})
    alike(both.parts["unet"], layers)
    alike(both.parts["text_encoder"], texts)
    assert both.beside == ""
    alone = read_lora(str(tmp_path / "a.safetensors"), {"unet": SD})
    alike(alone.layers, layers)
    assert len(alone.others) == 3 * len(texts)
    assert f"also changes other networks ({3 * len(texts)} weights, first lora_te_" in alone.beside


ODD = {
    "LoHa": ("lora_unet_conv_out.hada_w1_a", "it holds LoHa (1 weights, first lora_unet_conv_out.hada_w1_a)"),
    "LoKr": ("lora_unet_conv_out.lokr_w1", "it holds LoKr (1 weights"),
    "norms": ("lora_unet_down_blocks_0_resnets_0_norm1.w_norm", "it holds trained norms (1 weights"),
    "differences": ("lora_unet_conv_in.diff", "it holds full differences (1 weights"),
    "tokens": ("bundle_emb.tok.string_to_param.*", "it holds embeddings of new tokens (1 weights, first bundle_emb."),
    "biases": (f"unet.{Q}.lora_B.bias", "it holds biases (1 weights"),
    "base": (f"unet.{Q}.base_layer.weight", "it holds weights of the base (1 weights"),
    "unknown": (f"unet.{Q}.weight_g", "1 of its weights are of an unknown kind, first unet."),
    "no layer": (
        "unet.up_blocks.7.conv.lora_A.weight",
        "another UNet2DConditionModel: the base has no layer up_blocks.7",
    ),
    "twice": (f"base_model.model.{Q}.lora.down.weight", "holds one weight twice, as base_model.model."),
}


@pytest.mark.parametrize(("key", "message"), ODD.values(), ids=ODD)
@pytest.mark.parametrize("layout", ["peft's names", "kohya"])
def test_what_is_not_read_is_refused_by_its_name(tmp_path, key, message, layout):
    extra = {key: torch.ones(2, 2)}
    line = refused(saved_layers(tmp_path / "a.safetensors", layers_of(SD), layout, extra))
    assert message in line
    assert key in line


@pytest.mark.parametrize(("key", "message"), [ODD["LoHa"], ODD["LoKr"], ODD["differences"]])
def test_a_file_of_another_kind_alone_is_named_too(tmp_path, key, message):
    save_file({key: torch.ones(2, 2)}, tmp_path / "a.safetensors")
    assert message in refused(str(tmp_path / "a.safetensors"))


@pytest.mark.parametrize(
    "state", [{"conv_in.weight": torch.ones(2)}, TEXT, {"transformer.a.lora_A.weight": torch.ones(2, 2)}]
)
def test_a_file_without_a_unets_lora_is_refused(tmp_path, state):
    save_file(state, tmp_path / "a.safetensors")
    assert f"holds no LoRA of a UNet (its weights are {min(state)}" in refused(str(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("layout", ["peft's names", "diffusers' names", "kohya", "kohya for SDXL", "peft"])
def test_a_lora_of_another_width_names_the_layer_and_both_shapes(tmp_path, layout):
    wide = unet(cross_attention_dim=24)
    line = refused(saved_layers(tmp_path / "a.safetensors", layers_of(wide, ("attn2.to_k",)), layout))
    assert "was trained for another base" in line
    assert "has shape (2, 24), not (2, 16); name one of this base" in line
    assert min(written(layers_of(wide, ("attn2.to_k",)), LAYOUTS[layout])).rsplit(".", 2)[0] in line


def test_columns_that_were_rescaled_are_not_taken_for_rows(tmp_path):
    layers = layers_of(SD, ("to_q",), dora=True)
    state = {n: x.T if "dora" in n else x for n, x in written(layers, LAYOUTS["kohya"]).items()}
    save_file({name: x.contiguous() for name, x in state.items()}, tmp_path / "a.safetensors")
    assert "has magnitudes of columns (lora_unet_down_blocks_0" in refused(str(tmp_path / "a.safetensors"))


def test_a_dora_that_lost_magnitudes_is_refused(tmp_path):
    layers = layers_of(SD, dora=True)
    state = written(layers, PEFT)
    half = {name: x for name, x in state.items() if "magnitude" not in name or "attn" in name}
    none = {name: x for name, x in state.items() if "magnitude" not in name}
    for left in (half, none):
        save_file(left, tmp_path / "a.safetensors", settings_of(layers))
        assert "layers have no magnitude, first conv_in; take a whole file" in refused(str(tmp_path / "a.safetensors"))


def character(state, rng):
    """One letter of a name is another one."""
    key = rng.choice(sorted(state))
    place = rng.randrange(len(key))
    return key[:place] + rng.choice([x for x in "xqz" if x != key[place]]) + key[place + 1 :], state.pop(key)


def shape(state, rng):
    key = rng.choice(sorted(name for name in state if state[name].ndim))
    axis = rng.randrange(state[key].ndim)
    return key, torch.cat([state[key], state[key]], axis)


def numbers(state, rng):
    key = rng.choice(sorted(state))
    tensor = state[key].clone()
    tensor.view(-1)[rng.randrange(tensor.numel())] = rng.choice([float("nan"), float("inf"), -float("inf")])
    return key, tensor


def scalar(state, rng):
    return rng.choice(sorted(name for name in state if state[name].ndim)), torch.tensor(1.0)


def empty(state, rng):
    key = rng.choice(sorted(name for name in state if state[name].ndim))
    return key, torch.zeros(0, *state[key].shape[1:])


def kind_of_number(state, rng):
    key = rng.choice(sorted(name for name in state if state[name].ndim))
    return key, state[key].to(rng.choice([torch.int8, torch.int64, torch.complex64, torch.bool]))


@pytest.mark.parametrize("mangle", [character, shape, numbers, scalar, empty, kind_of_number])
def test_whatever_is_wrong_with_one_weight_its_layer_is_named(mangle):
    """Three weights at random in each layout."""
    layers, rng = layers_of(XL, ("attn1.to_q", "proj_in", "time_emb_proj")), Random(mangle.__name__)
    for names in (LAYOUTS | WRAPPED).values():
        whole = written(layers, names)
        for _ in range(3):
            state = dict(whole)
            key, tensor = mangle(state, rng)
            state[key] = tensor
            with pytest.raises(Refusal) as error:
                parse_lora("it", state, None, {"unet": XL})
            line = str(error.value)
            assert "\n" not in line
            gone = set(whole) - set(state)
            layer = next(name for name in layers if {key, *gone} & set(names(name).values()))
            assert any(name in line for name in (key, *gone, *names(layer).values(), key.rsplit(".", 2)[0]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_lost_any_weight_but_an_alpha_is_refused(layout):
    layers = layers_of(SD, ("attn1.to_q", "proj_in"))
    whole = written(layers, LAYOUTS[layout])
    for lost in whole:
        left = {name: tensor for name, tensor in whole.items() if name != lost}
        if lost.endswith(".alpha"):
            assert len(parse_lora("it", left, None, {"unet": SD}).layers) == len(layers)
        else:
            with pytest.raises(Refusal, match=r"is no plain LoRA \(.* has no (up|down) matrix\); take a whole file"):
                parse_lora("it", left, None, {"unet": SD})


def test_a_broken_file_is_refused_in_one_line(tmp_path):
    whole = Path(saved_layers(tmp_path / "whole.safetensors", layers_of(SD, ("to_q",)))).read_bytes()
    rng, broken = Random(0), tmp_path / "a.safetensors"
    cut = [whole[:size] for size in (0, 4, 8, 100, *(rng.randrange(len(whole)) for _ in range(10)))]
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n"
    for content in (*cut, pointer, b"{}", rng.randbytes(500)):
        broken.write_bytes(content)
        assert str(broken) in refused(str(broken))


@pytest.mark.parametrize("text", ["{", "[]", '"r"', "3", '{"r": 2, "lora_alpha": null}'])
def test_settings_that_are_no_settings_are_refused(tmp_path, text):
    save_file(written(layers_of(SD), PEFT), tmp_path / "a.safetensors", {METADATA: text})
    assert "a.safetensors" in refused(str(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("alpha", ["much", float("nan"), [1]])
@pytest.mark.parametrize("name", ["unet.lora_alpha", "unet.lora_dropout", "unet.alpha_pattern"])
def test_settings_of_another_kind_are_refused(tmp_path, name, alpha):
    value = {"to_q": alpha} if name == "unet.alpha_pattern" else alpha
    save_file(written(layers_of(SD), PEFT), tmp_path / "a.safetensors", {METADATA: json.dumps({name: value})})
    assert "has settings that peft cannot have written" in refused(str(tmp_path / "a.safetensors"))
    save_file(written(layers_of(SD), PEFT), tmp_path / "a.safetensors", {METADATA: '{"unet.alpha_pattern": {"(": 2}}'})
    assert "has settings that peft cannot have written" in refused(str(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("name", ["pytorch_lora_weights.bin", "mine.pt"])
def test_pickled_weights_are_read_and_nothing_else_that_is_pickled(tmp_path, name):
    layers = layers_of(SD, alphas=(2.0,))
    torch.save(written(layers, LAYOUTS["attention processors"]), tmp_path / name)
    alike(read_lora(str(tmp_path), {"unet": SD}).layers, layers)
    torch.save([torch.ones(2)], tmp_path / name)
    assert "it is no table of tensors" in refused(str(tmp_path))
    torch.save({"a": Path()}, tmp_path / name)
    assert "it is damaged, or holds more than tensors" in refused(str(tmp_path))
    (tmp_path / name).write_bytes(b"nothing")
    assert "fetch it again" in refused(str(tmp_path))


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["a.safetensors", "pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin"], 1),
        (["user_attention.safetensors", "adapter_model.safetensors"], 1),
        (["README.md", "mine.safetensors", "old.bin"], 1),
        (["README.md", "old.bin"], 1),
    ],
)
def test_the_file_in_a_folder_or_repository_is_found(tmp_path, monkeypatch, names, chosen):
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "checkpoint-1").mkdir()
    assert locate_lora(str(tmp_path)) == tmp_path / names[chosen]
    there = [*names, CONFIG, "checkpoint-1/other.safetensors"]
    fetched = []
    monkeypatch.setattr(diffpo.lora.files, "list_repo_files", lambda path: there)
    monkeypatch.setattr(
        diffpo.lora.files, "hf_hub_download", lambda path, name: fetched.append(name) or str(tmp_path / name)
    )
    assert locate_lora("some/lora") == tmp_path / names[chosen]
    assert fetched == [CONFIG, names[chosen]]


def test_a_folder_without_or_with_several_files_says_so(tmp_path):
    with pytest.raises(Refusal, match="does not hold a LoRA that can be read: no .safetensors or .bin file is there"):
        locate_lora(str(tmp_path))
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(Refusal, match=r"several files of weights \(a.safetensors, b.safetensors\); name the one"):
        locate_lora(str(tmp_path))
    with pytest.raises(Refusal, match="Cannot load a LoRA from 'some/lora'"):
        locate_lora("some/lora")
