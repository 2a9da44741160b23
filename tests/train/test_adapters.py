import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict
from tiny import image_batch, unet

from diffpo.core.references import SwitchedOff
from diffpo.core.refusal import Refusal
from diffpo.diffusion.model.lora import LoRA, WarmLoRA
from diffpo.train.adapters import adapter_only, adapters_off


def output(network) -> torch.Tensor:
    batch = image_batch()
    with torch.no_grad():
        return network(batch.latents.flatten(0, 1), torch.tensor(500), **batch.cond.kwargs()).sample


def shift_adapter(network, name: str = "default") -> None:
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if f".{name}." in key:
                parameter.add_(0.1)


@pytest.fixture
def lora_file(tmp_path):
    """A trained LoRA of the tiny UNet as diffusers writes it, and that UNet."""
    network = unet()
    LoRA(rank=2, alpha=6.0).attach(network)
    shift_adapter(network)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(network, adapter_name="default"))
    metadata = network.peft_config["default"].to_dict()
    StableDiffusionPipeline.save_lora_weights(tmp_path, layers, unet_lora_adapter_metadata=metadata)
    return tmp_path, network


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
