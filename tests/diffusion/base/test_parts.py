"""Every kind of network in a pipeline, with every kind of damage to its files."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny import WIDTH, text_config, unet, vae
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.parts import from_folder
from diffpo.diffusion.model.lora import LoRA

PARTS = {
    "unet": (UNet2DConditionModel, unet),
    "vae": (AutoencoderKL, vae),
    "text_encoder": (CLIPTextModel, lambda: CLIPTextModel(text_config(num_hidden_layers=2))),
    "text_encoder_2": (
        CLIPTextModelWithProjection,
        lambda: CLIPTextModelWithProjection(text_config(num_hidden_layers=2, projection_dim=WIDTH)),
    ),
}
DEEPER = {
    "unet": {"layers_per_block": 2},
    "vae": {"layers_per_block": 2},
    "text_encoder": {"num_hidden_layers": 3},
    "text_encoder_2": {"num_hidden_layers": 3},
}
SHALLOWER = {"text_encoder": {"num_hidden_layers": 1}, "text_encoder_2": {"num_hidden_layers": 1}}
WRAPPERS = ["_orig_mod.", "module.", "policy.", "state_dict.", "module._orig_mod.", "_orig_mod.module."]

part = pytest.mark.parametrize("name", PARTS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    for name, (_, make) in PARTS.items():
        make().save_pretrained(root / name)
    return root


@pytest.fixture
def folder(whole, tmp_path, name) -> Path:
    shutil.copytree(whole / name, tmp_path / name)
    return tmp_path


SPARE = ("text_projection.weight", "logit_scale")


def load(folder: Path, name: str, **options):
    return from_folder(PARTS[name][0], str(folder), (name,), f"a {name}", **options)


def file_of(folder: Path, name: str) -> Path:
    return next((folder / name).glob("*.safetensors"))


def rewritten(folder: Path, name: str, change) -> None:
    """The weights of a part, changed."""
    file = file_of(folder, name)
    weights = change(load_file(file))
    file.unlink()
    save_file({key: value.contiguous() for key, value in weights.items()}, file, {"format": "pt"})


def named(weights: dict, rename) -> dict:
    return {rename(key): value for key, value in weights.items()}


def first(weights: dict) -> str:
    return sorted(weights)[0]


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) and x.dtype == y.dtype for (a, x), (b, y) in pairs)


@part
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_taken_off_and_told_and_nothing_else_changes(whole, folder, name, wrapper, caplog):
    rewritten(folder, name, partial(named, rename=lambda key: wrapper + key))
    assert same(load(folder, name), load(whole, name))
    [told] = caplog.messages
    assert told.startswith(f"{folder}: ")
    assert f"lost what a wrapper had put into them, e.g. {wrapper}" in told


@part
def test_a_module_that_was_compiled_alone_is_unwrapped(whole, folder, name):
    rewritten(folder, name, partial(named, rename=lambda key: key.replace(".weight", "._orig_mod.weight")))
    assert same(load(folder, name), load(whole, name))


def without_first(weights):
    return {key: value for key, value in weights.items() if key != first(weights)}


DAMAGES = {
    "one absent": (without_first, "1 of its weights do not fit, the first is .* shape none and should have"),
    "one too many": (lambda w: w | {"foo.weight": torch.zeros(3)}, "1 of its .*the first is foo.weight, .* none;"),
    "foreign names": (partial(named, rename=lambda key: f"theirs.{key}"), "weights do not fit, the first is"),
    "foreign and wrapped": (partial(named, rename=lambda key: f"module.a.{key}"), "weights do not fit, the first is"),
    "another shape": (lambda w: w | {first(w): torch.zeros(3, 7)}, r"1 of its .* has shape \(3, 7\) and should have"),
    "wrapped, one absent": (
        lambda w: named(without_first(w), lambda key: f"_orig_mod.{key}"),
        "1 of its weights do not fit, the first is .* shape none and should have",
    ),
    "wrapped and plain": (lambda w: w | {f"module.{first(w)}": w[first(w)].clone()}, "1 of its weights do not fit"),
    "not a number": (lambda w: w | {first(w): w[first(w)] * torch.nan}, "that is broken: .* is not finite"),
}


@part
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_other_damage_is_one_line_with_the_first_weight(folder, name, damage, caplog, capfd):
    change, said = DAMAGES[damage]
    rewritten(folder, name, change)
    with pytest.raises(Refusal, match=f"{folder} (does not hold|holds) a {name}.*{said}") as caught:
        load(folder, name)
    assert "\n" not in str(caught.value)
    assert not caplog.messages
    assert "LOAD REPORT" not in capfd.readouterr().err


@part
@pytest.mark.parametrize("depths", [DEEPER, SHALLOWER], ids=["deeper", "shallower"])
def test_a_config_of_another_depth_is_refused(folder, name, depths):
    config = folder / name / "config.json"
    if name not in depths:
        pytest.skip("cannot be shallower")
    config.write_text(json.dumps(json.loads(config.read_text()) | depths[name]))
    with pytest.raises(Refusal, match=f"does not hold a {name}: .* of its weights do not fit, the first is"):
        load(folder, name)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n"
CONTENTS = {"empty": lambda _: b"", "pointer": lambda _: POINTER, "cut": lambda content: content[: len(content) // 2]}


@part
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_file_that_is_no_longer_one_is_one_line(folder, name, content, ending):
    file = file_of(folder, name)
    if ending == "bin":
        file = to_bin(folder, name)
    file.write_bytes(CONTENTS[content](file.read_bytes()))
    with pytest.raises(Refusal, match=f"{folder} does not hold a {name} that can be read: ") as caught:
        load(folder, name)
    assert "\n" not in str(caught.value)


def to_bin(folder: Path, name: str) -> Path:
    old = file_of(folder, name)
    stem = {"model": "pytorch_model"}.get(old.stem, old.stem)
    torch.save(load_file(old), folder / name / f"{stem}.bin")
    old.unlink()
    return folder / name / f"{stem}.bin"


def sharded(folder: Path, name: str) -> None:
    network = load(folder, name)
    file_of(folder, name).unlink()
    network.save_pretrained(folder / name, max_shard_size="10KB")
    assert len(list((folder / name).glob("*.safetensors"))) > 1


def as_variant(folder: Path, name: str) -> None:
    file = file_of(folder, name)
    file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))


@part
@pytest.mark.parametrize("wrapper", ["", "_orig_mod."])
@pytest.mark.parametrize("layout", [sharded, to_bin, as_variant])
def test_other_layouts_of_files_stay_supported(whole, folder, name, layout, wrapper):
    layout(folder, name)
    for file in (folder / name).glob("*.safetensors" if layout is not to_bin else "*.bin"):
        weights = load_file(file) if file.suffix == ".safetensors" else torch.load(file)
        wrapped = {wrapper + key: value for key, value in weights.items()}
        file.unlink()
        save_file(wrapped, file, {"format": "pt"}) if file.suffix == ".safetensors" else torch.save(wrapped, file)
    for index in (folder / name).glob("*.index.json"):
        found = json.loads(index.read_text())
        found["weight_map"] = {wrapper + key: value for key, value in found["weight_map"].items()}
        index.write_text(json.dumps(found))
    assert same(load(folder, name, variant="fp16" if layout is as_variant else None), load(whole, name))


@part
def test_half_precision_files_are_read_in_fp32(folder, name):
    rewritten(folder, name, lambda weights: {key: value.half() for key, value in weights.items()})
    assert {parameter.dtype for parameter in load(folder, name).parameters()} == {torch.float32}


@part
def test_a_variant_alone_says_what_to_set(folder, name):
    as_variant(folder, name)
    with pytest.raises(Refusal, match="its weights are of variant fp16; name it in --base.variant"):
        load(folder, name)


@part
def test_a_part_without_the_variant_takes_the_others_and_says_so(whole, folder, name, caplog):
    assert same(load(folder, name, variant="fp16"), load(whole, name))
    assert caplog.messages == [f"{folder / name} has no weights of variant fp16; those without a variant are taken."]


@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2"])
def test_an_old_clip_file_with_its_positions_is_whole(whole, folder, name):
    rewritten(folder, name, lambda w: w | {"text_model.embeddings.position_ids": torch.arange(24)[None]})
    assert same(load(folder, name), load(whole, name))


@pytest.mark.parametrize("name", ["vae"])
def test_an_old_vae_whose_attention_has_other_names_is_whole(whole, folder, name):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(key: str) -> str:
        for new, name in old.items():
            key = key.replace(f".{new}.", f".{name}.")
        return key

    rewritten(folder, name, partial(named, rename=renamed))
    assert any(".proj_attn." in key for key in load_file(file_of(folder, name)))
    assert same(load(folder, name), load(whole, name))


@pytest.mark.parametrize("name", ["unet"])
def test_a_network_saved_with_its_adapters_says_how_to_save_it(folder, name):
    carrier = unet()
    LoRA(rank=2).attach(carrier)
    carrier.save_pretrained(folder / name)
    with pytest.raises(Refusal, match=r"it was saved with adapters, the first is .*; merge them into it \(pipe.fuse"):
        load(folder, name)


def test_the_first_place_that_is_there_is_taken(whole, tmp_path):
    shutil.copytree(whole / "unet", tmp_path, dirs_exist_ok=True)
    assert same(from_folder(UNet2DConditionModel, str(tmp_path), ("unet", ""), "a UNet"), load(whole, "unet"))
    shutil.copytree(whole / "vae", tmp_path / "unet")
    with pytest.raises(Refusal, match="does not hold a UNet"):
        from_folder(UNet2DConditionModel, str(tmp_path), ("unet", ""), "a UNet")


def test_what_a_network_does_not_use_may_be_there_and_what_it_uses_may_not_be_absent(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    rewritten(tmp_path, "text_encoder", lambda w: w | {SPARE[0]: torch.ones(4, 4), SPARE[1]: torch.ones(())})
    assert same(load(tmp_path, "text_encoder", spare=SPARE), load(whole, "text_encoder"))
    with pytest.raises(Refusal, match="2 of its weights do not fit, the first is logit_scale"):
        load(tmp_path, "text_encoder")
    rewritten(tmp_path, "text_encoder_2", lambda w: {key: x for key, x in w.items() if key != SPARE[0]})
    with pytest.raises(Refusal, match="the first is text_projection.weight, which has shape none"):
        load(tmp_path, "text_encoder_2", spare=SPARE)


def test_quantized_weights_are_refused(whole, monkeypatch):
    network = unet()
    network.conv_in.bias = torch.nn.Parameter(torch.zeros(8, dtype=torch.uint8), requires_grad=False)
    monkeypatch.setattr("diffpo.diffusion.base.parts.load_whole", lambda *_: network)
    with pytest.raises(Refusal, match=r"holds a unet in few bits \(conv_in.bias, say\)"):
        load(whole, "unet")
