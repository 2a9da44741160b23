import pytest
import torch
from tiny import unet
from tiny_loras import output, save_shifted, shift_adapter

from diffpo.core.references import SwitchedOff
from diffpo.core.refusal import Refusal
from diffpo.diffusion.model.lora import LoRA, WarmLoRA
from diffpo.train.adapters import adapter_only, adapters_off


@pytest.fixture
def lora_file(tmp_path):
    """A trained LoRA of the tiny UNet as diffusers writes it, and that UNet."""
    return tmp_path, save_shifted(tmp_path)


def test_switched_off_lora_is_the_base_bitwise_and_comes_back():
    network = unet()
    before = output(network)
    LoRA(rank=2).attach(network)
    shift_adapter(network)
    tuned, trainable = output(network), [p.requires_grad for p in network.parameters()]
    assert torch.equal(SwitchedOff(network, adapters_off)(output), before)
    assert torch.equal(output(network), tuned)
    assert not torch.equal(tuned, before)
    assert [p.requires_grad for p in network.parameters()] == trainable


def test_switch_survives_an_error_inside():
    network = unet()
    LoRA(rank=2).attach(network)
    shift_adapter(network)
    tuned = output(network)
    with pytest.raises(KeyboardInterrupt), adapters_off(network):
        raise KeyboardInterrupt
    assert torch.equal(output(network), tuned)


def test_switching_to_one_adapter_does_not_thaw_another(lora_file):
    network = unet()
    WarmLoRA(str(lora_file[0])).attach(network)
    trainable = [p.requires_grad for p in network.parameters()]
    with adapter_only("ref")(network):
        pass
    with adapters_off(network):
        pass
    assert [p.requires_grad for p in network.parameters()] == trainable


def test_a_unet_that_carries_adapters_is_refused():
    network = unet()
    LoRA(rank=2).attach(network)
    with pytest.raises(Refusal, match="already carries adapters; merge them"):
        LoRA(rank=2).attach(network)
