import json
from pathlib import Path

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from single_file import save_single_file
from tiny import WIDTH, moved, pipeline, unet
from tiny_loras import layers_of, saved_layers
from tiny_negatives import saved_difference, saved_lora

from diffpo.core.refusal import Refusal
from diffpo.diffusion.pipelines.negative_networks import (
    NEGATIVE,
    add_difference,
    attach_negative,
    merged_copy,
    read_adapters,
    read_difference,
    read_full,
)
from diffpo.diffusion.pipelines.negative_parts import DIFFERENCE
from diffpo.lora.layers import require_put
from diffpo.lora.switch import active, adapted, switched

LATENTS = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
STATES = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))


def out(network: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network(LATENTS, 5, encoder_hidden_states=STATES).sample


def flags(network: torch.nn.Module) -> list:
    return [
        (layer.active_adapters, layer.disable_adapters, dict(layer.scaling))
        for layer in network.modules()
        if isinstance(layer, BaseTunerLayer)
    ]


def with_style(folder: Path):
    """A pipeline with a LoRA of its own, at another scale and on other layers than the negative's."""
    pipe = pipeline()
    pipe.load_lora_weights(saved_lora(folder, 0.3, ("to_k", "to_q")), adapter_name="style")
    pipe.set_adapters(["style"], [0.5])
    return pipe


def test_an_attached_lora_changes_nothing_until_it_is_switched_on(tmp_path):
    pipe = with_style(tmp_path / "style")
    network = pipe.unet
    network.conv_in.weight.requires_grad_(True)
    trainable = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    before = out(network)
    scales = attach_negative(network, read_adapters(pipe, saved_lora(tmp_path / "negative"), "unet"), mix=0.8)
    assert scales == {"style": None, NEGATIVE: 0.8}
    assert torch.equal(out(network), before)
    assert {name for name, parameter in network.named_parameters() if parameter.requires_grad} == trainable
    standing = flags(network)
    with switched(adapted(network), scales):
        assert not torch.allclose(out(network), before, atol=1e-3)
    assert flags(network) == standing
    assert torch.equal(out(network), before)


def test_switching_equals_merging_equals_diffusers_own_adapters(tmp_path):
    pipe, path = with_style(tmp_path / "style"), saved_lora(tmp_path / "negative")
    merged = out(merged_copy(pipe.unet, read_adapters(pipe, path, "unet"), mix=0.6))
    scales = attach_negative(pipe.unet, read_adapters(pipe, path, "unet"), mix=0.6)
    with switched(adapted(pipe.unet), scales):
        shared = out(pipe.unet)
    theirs = with_style(tmp_path / "again")
    theirs.load_lora_weights(path, adapter_name="other")
    theirs.set_adapters(["style", "other"], [0.5, 0.6])
    assert torch.allclose(shared, out(theirs.unet), atol=1e-6)
    assert torch.allclose(merged, shared, atol=1e-5)


def test_adapters_that_are_off_are_not_merged(tmp_path):
    pipe = with_style(tmp_path)
    pipe.unet.disable_lora()
    assert active(pipe.unet) == {}
    assert torch.equal(out(merged_copy(pipe.unet)), out(unet()))


def test_a_copy_has_no_adapters_and_leaves_the_network_alone(tmp_path):
    pipe = with_style(tmp_path)
    before, standing = out(pipe.unet), flags(pipe.unet)
    copy = merged_copy(pipe.unet)
    assert copy.state_dict().keys() == unet().state_dict().keys()
    assert adapted(copy) == []
    assert torch.allclose(out(copy), before, atol=1e-6)
    assert torch.equal(out(pipe.unet), before)
    assert flags(pipe.unet) == standing


def test_a_difference_is_added_as_often_as_asked(tmp_path):
    network, path = unet(), saved_difference(tmp_path)
    add_difference(network, read_difference(path), 1.0)
    assert torch.allclose(out(network), out(moved(unet(), 0.05)), atol=1e-5)
    add_difference(network, read_difference(path), -1.0)
    assert torch.allclose(out(network), out(unet()), atol=1e-5)


def test_what_a_path_holds_is_told_apart(tmp_path):
    lora, difference = saved_lora(tmp_path / "lora"), saved_difference(tmp_path / "difference")
    unet().save_pretrained(tmp_path / "tuned" / "unet")
    unet().save_pretrained(tmp_path / "top")
    renamed = (tmp_path / "difference" / DIFFERENCE).rename(tmp_path / "shared.safetensors")
    assert read_difference(str(renamed)).names == unet().state_dict().keys()
    assert [read_difference(path) for path in (lora, difference, str(tmp_path / "tuned"))] == [None] * 3
    assert [read_full(path, unet(), "unet") for path in (lora, f"{lora}/pytorch_lora_weights.safetensors")] == [
        None
    ] * 2
    for place in ("tuned", "top"):
        assert torch.equal(out(read_full(str(tmp_path / place), unet(7), "unet")), out(unet()))


def test_a_full_network_in_a_single_file_needs_no_hub_and_has_to_be_whole(tmp_path):
    file = save_single_file(pipeline(), tmp_path / "x.safetensors")
    assert torch.equal(out(read_full(file, unet(7), "unet")), out(unet()))
    with pytest.raises(Refusal, match="x.safetensors does not hold a UNet: .* of its weights do not fit"):
        read_full(file, unet(cross_attention_dim=8), "unet")


def test_a_full_network_that_lacks_a_weight_is_refused(tmp_path):
    unet().save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_in.bias"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(Refusal, match="does not hold a unet: 1 of its weights do not fit, the first is conv_in.bias"):
        read_full(str(tmp_path), unet(), "unet")


def test_a_full_network_takes_the_positives_type(tmp_path):
    unet().save_pretrained(tmp_path)
    assert read_full(str(tmp_path), unet().to(torch.bfloat16), "unet").dtype == torch.bfloat16


def test_another_architecture_is_refused_by_its_first_weight(tmp_path):
    unet(cross_attention_dim=8).save_pretrained(tmp_path)
    name = r"attn2\.to_k\.weight is \(8, 8\), the base's \(8, 16\)"
    with pytest.raises(Refusal, match=name):
        read_full(str(tmp_path), unet(), "unet")
    with pytest.raises(Refusal, match=r"attn2\.to_k\.weight is \(8, 16\), the base's \(8, 8\)"):
        add_difference(unet(cross_attention_dim=8), read_difference(saved_difference(tmp_path / "d")), 1.0)


def test_a_lora_of_another_network_is_refused(tmp_path):
    pipe = pipeline()
    wide = saved_lora(tmp_path / "wide", cross_attention_dim=8, targets=("to_k",))
    with pytest.raises(Refusal, match="was trained for another base: .*name one of this base"):
        merged_copy(pipe.unet, read_adapters(pipe, wide, "unet"))
    elsewhere = tmp_path / "elsewhere.safetensors"
    save_file({f"unet.mid.to_q.lora.{x}.weight": torch.zeros(2, 2) for x in ("down", "up")}, elsewhere)
    with pytest.raises(Refusal, match=r"for another UNet2DConditionModel: the base has no layer mid\.to_q"):
        read_adapters(pipe, str(elsewhere), "unet")


def test_a_path_without_weights_says_what_was_looked_for(tmp_path):
    with pytest.raises(Refusal, match="does not hold a LoRA|Cannot load a LoRA"):
        read_adapters(pipeline(), str(tmp_path), "unet")
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(Refusal, match="does not hold a unet"):
        read_full(str(tmp_path), unet(), "unet")


@pytest.mark.parametrize("layout", ["kohya", "attention processors", "both", "peft", "compiled"])
def test_a_lora_of_any_trainer_is_a_negative(tmp_path, layout):
    pipe, layers = pipeline(), layers_of(unet())
    lora = read_adapters(pipe, saved_layers(tmp_path / "a.safetensors", layers, layout), "unet")
    attach_negative(pipe.unet, lora, mix=1.0)
    require_put(pipe.unet, layers, NEGATIVE)


def test_what_a_negative_does_to_text_encoders_is_left_out_and_told(tmp_path):
    texts = {f"text_encoder.fc1.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}
    path = saved_layers(tmp_path / "a.safetensors", layers_of(unet()), extra=texts)
    with pytest.warns(UserWarning, match=r"also changes other networks \(2 weights, first text_encoder.*left out"):
        read_adapters(pipeline(), path, "unet")


def test_a_dora_is_added_as_a_whole_or_not_at_all(tmp_path):
    path = saved_layers(tmp_path / "a.safetensors", layers_of(unet(), dora=True))
    pipe = pipeline()
    whole = out(merged_copy(pipe.unet, read_adapters(pipe, path, "unet")))
    scales = attach_negative(pipe.unet, read_adapters(pipe, path, "unet"), 1.0)
    with switched(adapted(pipe.unet), scales):
        assert torch.allclose(out(pipe.unet), whole, atol=1e-5)
    for pipe, mix, told in (
        (pipeline(), 0.5, "mix is 0.5, adapters are none"),
        (with_style(tmp_path), 1.0, "are style"),
    ):
        with pytest.raises(Refusal, match=told):
            attach_negative(pipe.unet, read_adapters(pipe, path, "unet"), mix)


def test_a_negative_is_read_beside_adapters_that_are_there(tmp_path):
    pipe, layers = with_style(tmp_path / "style"), layers_of(unet(), ("to_k", "conv1"))
    attach_negative(
        pipe.unet, read_adapters(pipe, saved_layers(tmp_path / "a.safetensors", layers, "kohya"), "unet"), 0.5
    )
    require_put(pipe.unet, layers, NEGATIVE)
