"""One switch for all: the policy that is its own reference, the adapter that a run starts from, two guided halves."""

import pytest
import torch
from peft import LoraConfig
from tiny import image_batch, unet

from diffpo.lora.switch import active, adapted, switched


def carrying(*names: str):
    network = unet()
    for name in names:
        network.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), name)
    return network


def out(network) -> torch.Tensor:
    batch = image_batch()
    with torch.no_grad():
        return network(
            batch.latents.flatten(0, 1), torch.tensor(500), batch.cond.states["prompt"].flatten(0, 1)
        ).sample


def test_without_names_the_network_is_the_bare_one_bitwise():
    network = carrying("style")
    tuned = out(network)
    with switched(adapted(network), {}):
        assert active(network) == {}
        assert torch.equal(out(network), out(unet()))
    assert torch.equal(out(network), tuned)
    assert not torch.equal(tuned, out(unet()))


def test_a_named_adapter_is_on_alone_at_the_scale_given():
    network = carrying("style", "other")
    network.set_adapter("style")
    with switched(adapted(network), {"other": None}):
        whole = out(network)
        with switched(adapted(network), {"other": 0.0}):
            assert torch.allclose(out(network), out(unet()), atol=1e-6)
        assert torch.equal(out(network), whole)
    assert active(network) == {"style": None}


def test_what_was_on_is_on_after_an_error_inside_an_inner_switch():
    network = carrying("style")
    layers, tuned = adapted(network), out(network)
    with switched(layers, {}):
        with pytest.raises(KeyboardInterrupt), switched(layers, {"style": 0.5}):
            raise KeyboardInterrupt
        assert active(network) == {}
    assert torch.equal(out(network), tuned)
