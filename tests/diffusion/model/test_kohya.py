import sys

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import drawn, pipeline, pipeline_xl, trained, unet, unet_xl
from tiny_loras import layers_of, saved_layers

from diffpo.cli.command import launch
from diffpo.commands import export_lora
from diffpo.core.refusal import Refusal
from diffpo.diffusion.model.kohya import describe_layers, export_kohya, one_alpha, read_layers
from diffpo.diffusion.model.lora import WarmLoRA
from diffpo.lora.files import Layer, layer_shapes, read_lora
from diffpo.lora.layers import require_put

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


def with_lora(**config) -> StableDiffusionPipeline:
    """A pipeline whose UNet carries a LoRA that is not zero."""
    pipe = pipeline()
    pipe.unet.requires_grad_(False)
    pipe.unet.add_adapter(LoraConfig(target_modules=["to_q", "to_k", "to_v", "to_out.0"], **config))
    trained(pipe.unet, by=0.3)
    return pipe


def saved_lora(folder, pipe: StableDiffusionPipeline) -> str:
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet))
    metadata = pipe.unet.peft_config["default"].to_dict()
    pipe.save_lora_weights(folder, layers, unet_lora_adapter_metadata=metadata)
    return str(folder)


def loaded(file) -> StableDiffusionPipeline:
    pipe = pipeline()
    pipe.load_lora_weights(str(file))
    return pipe


CASES = {
    "alpha above the rank": {"r": 2, "lora_alpha": 5},
    "alpha is the rank": {"r": 2, "lora_alpha": 2},
    "layers differ": {"r": 2, "lora_alpha": 4, "rank_pattern": {"to_q": 8}, "alpha_pattern": {"attn2.to_v": 1}},
    "rank-stabilized": {"r": 4, "lora_alpha": 3, "use_rslora": True},
}


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_the_file_draws_the_picture_of_the_lora_it_was_made_from(tmp_path, config):
    pipe = with_lora(**config)
    export_kohya(saved_lora(tmp_path / "run", pipe), tmp_path / "out.safetensors", torch.float32)
    assert np.array_equal(drawn(loaded(tmp_path / "out.safetensors")), drawn(pipe))
    assert not np.array_equal(drawn(pipeline()), drawn(pipe))


@pytest.mark.parametrize("made", [pipeline, pipeline_xl])
def test_the_file_can_be_trained_further(tmp_path, made):
    pipe = made()
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=5, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    trained(pipe.unet, by=0.3)
    export_kohya(saved_lora(tmp_path / "run", pipe), tmp_path / "out.safetensors", torch.float32)
    plain = made()
    WarmLoRA(str(tmp_path / "out.safetensors")).attach(plain.unet)
    assert np.array_equal(drawn(plain), drawn(pipe))
    assert any(p.requires_grad for p in plain.unet.parameters())


def test_the_file_of_an_sdxl_lora_loads_back(tmp_path):
    pipe, plain = pipeline_xl(), pipeline_xl()
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=5, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    trained(pipe.unet, by=0.3)
    export_kohya(saved_lora(tmp_path / "run", pipe), tmp_path / "out.safetensors", torch.float32)
    plain.load_lora_weights(str(tmp_path / "out.safetensors"))
    assert np.array_equal(drawn(plain), drawn(pipe))


def test_a_file_without_alphas_means_alpha_is_the_rank_as_when_it_is_loaded(tmp_path):
    pipe = with_lora(r=2, lora_alpha=2)
    pipe.save_lora_weights(tmp_path, get_peft_model_state_dict(pipe.unet))
    assert {layer.alpha for layer in read_layers(str(tmp_path)).values()} == {2.0}


def test_layers_are_named_as_other_programs_look_for_them(tmp_path):
    export_kohya(saved_lora(tmp_path, with_lora(r=2, lora_alpha=5)), tmp_path / "out.safetensors")
    tensors = load_file(tmp_path / "out.safetensors")
    first = f"lora_unet_{ATTENTION.replace('.', '_')}_to_out_0"
    assert tensors[f"{first}.lora_down.weight"].shape == (2, 8)
    assert tensors[f"{first}.lora_up.weight"].shape == (8, 2)
    assert tensors[f"{first}.alpha"].item() == 5.0
    assert {name.split(".", 1)[1] for name in tensors} == {"lora_down.weight", "lora_up.weight", "alpha"}
    assert len(tensors) == 3 * 4 * 2 * 4  # 4 transformer blocks with 2 attentions of 4 layers


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_weights_are_stored_in_the_chosen_type_and_alphas_exactly(tmp_path, name, dtype):
    lora = saved_lora(tmp_path, with_lora(r=2, lora_alpha=5, use_rslora=True))
    export_kohya(lora, tmp_path / "out.safetensors", dtype)
    tensors = load_file(tmp_path / "out.safetensors")
    assert {tensor.dtype for key, tensor in tensors.items() if key.endswith("weight")} == {dtype}
    assert {tensor.item() for key, tensor in tensors.items() if key.endswith("alpha")} == {
        float(np.float32(5 * 2**0.5))
    }


def test_exporting_an_exported_file_changes_no_tensor(tmp_path):
    lora = saved_lora(tmp_path, with_lora(r=2, lora_alpha=5, rank_pattern={"to_q": 4}))
    export_kohya(lora, tmp_path / "a.safetensors", torch.float32)
    export_kohya(str(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", torch.float32)
    first, second = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("width", "version", "sd2"), [(768, "sd_v1", "False"), (1024, "sd_v2", "True"), (2048, "sdxl_base_v1-0", "False")]
)
def test_the_base_is_told_by_the_width_of_its_text_states(width, version, sd2):
    told = describe_layers({f"{ATTENTION}.to_q": layer(320), "up_blocks.1.attentions.0.attn2.to_k": layer(width)})
    assert (told["ss_base_model_version"], told["ss_v2"]) == (version, sd2)


def layer(width: int, rank: int = 2, alpha: float = 1.0) -> Layer:
    return Layer(torch.zeros(rank, width), torch.arange(320.0 * rank).view(320, rank), alpha)


def test_rank_and_alpha_are_told_and_an_unknown_base_is_not():
    same = describe_layers({"a": layer(8), "b": layer(8)})
    assert (same["ss_network_dim"], same["ss_network_alpha"]) == ("2", "1")
    assert describe_layers({"a": layer(8), "b": layer(8, rank=4)})["ss_network_dim"] == "Dynamic"
    assert "ss_base_model_version" not in same


def test_one_alpha_keeps_every_update():
    layers = {"a": layer(8, alpha=2.0), "b": layer(8, alpha=2.0), "c": layer(8, alpha=3.0)}
    after = one_alpha(layers)
    assert {x.alpha for x in after.values()} == {2.0}
    for name, x in layers.items():
        torch.testing.assert_close(after[name].alpha * after[name].up, x.alpha * x.up)


Q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
PLAIN = {f"{Q}.lora_A.weight": torch.zeros(2, 8), f"{Q}.lora_B.weight": torch.zeros(8, 2)}
TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
BLOCK = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
ORIGINAL = {f"{BLOCK}.lora_down.weight": torch.zeros(2, 8), f"{BLOCK}.lora_up.weight": torch.zeros(8, 2)}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"conv_in.weight": torch.zeros(1)}, r"holds no LoRA of a UNet \(its weights are conv_in.weight"),
        ({TEXT: torch.zeros(2, 8)}, "holds no LoRA of a UNet"),
        (PLAIN | {TEXT: torch.zeros(2, 8)}, r"also changes other networks \(1 weights, first text_encoder"),
        (PLAIN | {f"{Q}.lora_magnitude_vector": torch.zeros(8)}, "is no plain LoRA .*lora_magnitude_vector"),
        ({f"{Q}.lora_A.weight": torch.zeros(2, 8)}, "is no plain LoRA .*attn1.to_q"),
        (ORIGINAL | {f"{BLOCK}.alpha": torch.tensor(2.0)}, "in kohya's layout already"),
    ],
    ids=["no LoRA", "no UNet", "text encoder too", "DoRA", "half a layer", "original names"],
)
def test_what_is_no_plain_lora_of_a_unet_is_refused(tmp_path, weights, message):
    save_file(weights, tmp_path / "in.safetensors")
    with pytest.raises(Refusal, match=message):
        export_kohya(str(tmp_path / "in.safetensors"), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def script(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["export_lora.py", *arguments])
    launch(export_lora.main)


def test_the_script_writes_a_file_and_says_what_is_in_it(tmp_path, monkeypatch, capsys):
    lora, output = saved_lora(tmp_path / "run", with_lora(r=2, lora_alpha=5)), tmp_path / "new" / "mine.safetensors"
    script(monkeypatch, f"--lora={lora}", f"--output={output}", "--dtype=bf16")
    assert capsys.readouterr().out == f"{output}: rank 2, alpha 5, for an unknown base, bf16\n"
    with safe_open(output, "pt") as file:
        assert file.metadata()["ss_output_name"] == "mine"


@pytest.mark.parametrize(
    ("name", "message"), [("there.safetensors", "exists already"), ("mine.pt", "does not end in .safetensors")]
)
def test_nothing_is_overwritten_or_misnamed(tmp_path, monkeypatch, capsys, name, message):
    (tmp_path / "there.safetensors").write_text("precious")
    with pytest.raises(SystemExit):
        script(monkeypatch, f"--lora={tmp_path}", f"--output={tmp_path / name}")
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (tmp_path / "there.safetensors").read_text() == "precious"


def test_a_place_that_cannot_be_written_to_is_told_in_a_line(tmp_path):
    lora = saved_lora(tmp_path / "run", with_lora(r=2))
    (tmp_path / "taken").write_text("")
    with pytest.raises(Refusal, match="out.safetensors could not be written .*the LoRA itself is untouched"):
        export_kohya(lora, tmp_path / "taken" / "out.safetensors")


@pytest.mark.parametrize("made", [unet, unet_xl])
def test_every_layer_of_a_unet_is_exported_so_that_diffusers_finds_it(tmp_path, made):
    """Under some names it looks for other layers, or for none."""
    network, pipe = made(), pipeline()
    layers = layers_of(network, layer_shapes(network), rank=1, alphas=(2.0,))
    export_kohya(saved_layers(tmp_path / "a.safetensors", layers), tmp_path / "out.safetensors", torch.float32)
    pipe.unet = network
    state, alphas = pipe.lora_state_dict(str(tmp_path / "out.safetensors"), unet_config=network.config)
    pipe.load_lora_into_unet(state, alphas, network, adapter_name="theirs")
    require_put(network, layers, "theirs")


def test_every_layer_of_an_exported_file_is_read_again(tmp_path):
    network = unet_xl()
    layers = layers_of(network, layer_shapes(network), rank=1)
    first = saved_layers(tmp_path / "a.safetensors", layers)
    for number, source in enumerate([first, str(tmp_path / "0.safetensors")]):
        export_kohya(source, tmp_path / f"{number}.safetensors", torch.float32)
        found = read_lora(str(tmp_path / f"{number}.safetensors"), {"unet": network}).layers
        assert found.keys() == layers.keys()
        assert {layer.alpha for layer in found.values()} == {3.0}
        for name, layer in layers.items():
            torch.testing.assert_close(found[name].up * 3.0, layer.up * layer.alpha)


def test_two_exports_of_one_lora_have_the_same_bytes(tmp_path):
    lora = saved_lora(tmp_path / "run", with_lora(r=2, lora_alpha=5))
    for number in range(10):
        export_kohya(lora, tmp_path / str(number) / "mine.safetensors")
    assert len({(tmp_path / str(number) / "mine.safetensors").read_bytes() for number in range(10)}) == 1


@pytest.mark.parametrize("layout", ["kohya", "peft"])
def test_a_dora_is_not_exported_without_its_magnitudes(tmp_path, layout):
    lora = saved_layers(tmp_path / "a.safetensors", layers_of(unet(), ("to_q",), dora=True), layout)
    with pytest.raises(Refusal, match="to_q has a lora_magnitude_vector.: DoRA is not exported"):
        export_kohya(lora, tmp_path / "out.safetensors")
