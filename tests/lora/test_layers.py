import pytest
import torch
from tiny import pipeline, trained, unet
from tiny_loras import layers_of
from torch import Tensor

from diffpo.diffusion.model.lora import LoRA
from diffpo.lora.files import Layer, layer_shapes
from diffpo.lora.layers import group_pattern, most_common_value, peft_settings, put_layers, put_text, require_put

STATES = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
LATENTS = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def output(network) -> Tensor:
    with torch.no_grad():
        return network.eval()(LATENTS, 500, STATES).sample


def merged(layers: dict[str, Layer]):
    """The tiny UNet with every update added by hand."""
    network = unet()
    for name, layer in layers.items():
        weight = network.get_submodule(name).weight.data
        update = torch.einsum("or,ri->oi", layer.up.flatten(1), layer.down.flatten(1))
        weight += layer.alpha / len(layer.down) * update.view(weight.shape)
        if layer.magnitude is not None:
            norm = weight.flatten(1).norm(dim=1)
            weight *= (layer.magnitude / norm).view(-1, *(1,) * (weight.ndim - 1))
    return network


def differing() -> dict[str, Layer]:
    """Layers of several ranks, with several alphas."""
    return layers_of(unet(), ("to_q", "conv1"), rank=3) | layers_of(unet(), ("proj_in", "ff.net.2", "conv_out"))


@pytest.mark.parametrize("layers", [differing(), layers_of(unet(), dora=True)], ids=["lora", "dora"])
def test_a_network_computes_what_the_layers_say(layers):
    network = unet()
    state = torch.get_rng_state()
    put_layers(network, layers, "mine")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.allclose(output(network), output(merged(layers)), atol=1e-5)
    assert not torch.allclose(output(network), output(unet()), atol=1e-2)


def test_a_second_adapter_stands_beside_the_first():
    network, first, second = unet(), differing(), layers_of(unet(), ("to_v", "conv1"))
    put_layers(network, first, "one")
    put_layers(network, second, "two", dropout=0.5)
    require_put(network, first, "one")
    require_put(network, second, "two")
    assert network.peft_config["one"].lora_dropout == 0
    assert network.peft_config["two"].lora_dropout == 0.5
    assert layer_shapes(network) == layer_shapes(unet())


def test_a_text_encoder_gets_its_layers():
    encoder, plain = pipeline().text_encoder.eval(), pipeline().text_encoder.eval()
    layers = layers_of(encoder, ("q_proj", "fc1"))
    state = torch.get_rng_state()
    put_text(encoder, layers, "mine")
    assert torch.equal(torch.get_rng_state(), state)
    for name, layer in layers.items():
        update = layer.up @ layer.down
        plain.get_submodule(name).weight.data += layer.alpha / len(layer.down) * update
    ids = torch.arange(6)[None]
    with torch.no_grad():
        assert torch.allclose(encoder(ids).last_hidden_state, plain(ids).last_hidden_state, atol=1e-5)


def test_settings_say_what_most_layers_have_and_which_differ():
    settings = peft_settings(differing(), dropout=0.1)
    assert settings["r"] == 3
    assert settings["lora_alpha"] == 3.0
    assert list(settings["rank_pattern"].values()) == [2]
    assert list(settings["alpha_pattern"].values()) == [1.0]
    assert settings["lora_dropout"] == 0.1
    assert not settings["use_dora"]
    assert peft_settings(layers_of(unet(), dora=True))["use_dora"]


def test_a_pattern_holds_for_its_layers_alone():
    assert group_pattern({"a.conv": 1.0, "conv": 2.0, "b.conv": 1.0}) == {"^(?:conv)": 2.0}
    assert group_pattern({"a": 1.0, "b": 1.0}) == {}
    assert most_common_value({"a": 2, "b": 3, "c": 3}) == 3
    assert most_common_value({"a": 3, "b": 2}) == 2


def test_an_alpha_of_zero_adds_nothing():
    network = unet()
    put_layers(network, layers_of(unet(), alphas=(0.0,)), "mine")
    assert torch.equal(output(network), output(unet()))


@pytest.mark.parametrize("part", ["lora_A", "lora_B", "scaling"])
def test_a_layer_with_other_numbers_is_seen(part):
    network, layers = unet(), layers_of(unet(), ("to_q",))
    put_layers(network, layers, "mine")
    module = network.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    if part == "scaling":
        module.scaling["mine"] *= 1.001
    else:
        vars(module)["_modules"][part]["mine"].weight.data[0, 0] += 1e-3
    with pytest.raises(RuntimeError, match="mid_block.*attn1.to_q of a LoRA was loaded with other numbers"):
        require_put(network, layers, "mine")


def test_a_layer_too_few_or_too_many_is_seen():
    network = trained(unet())
    LoRA(rank=2, targets=["to_q"]).attach(network)
    layers = layers_of(network, ("to_q", "to_k"))
    with pytest.raises(RuntimeError, match=r"8 of 16 layers of a LoRA .*; down_blocks.*to_k is the first odd"):
        require_put(network, layers, "default")
    with pytest.raises(RuntimeError, match="8 of 4 layers of a LoRA were loaded"):
        require_put(network, layers_of(network, ("attn2.to_q",)), "default")
