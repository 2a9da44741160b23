"""Files that a negative can be loaded from, for the tiny UNet."""

from pathlib import Path

from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from tiny import moved, trained, unet

from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.pipelines.negative_parts import DIFFERENCE, MARK


def saved_lora(folder: Path, scale: float = 0.2, targets: tuple[str, ...] = ("to_q", "to_out.0"), **config) -> str:
    """A LoRA of random weights as `train_diffusion_dpo.py` writes it."""
    network = unet(**config)
    LoRA(rank=2, targets=list(targets)).attach(network)
    trained(network, scale)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(network))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)
    return str(folder)


def saved_difference(folder: Path, by: float = 0.05) -> str:
    """The difference between a moved UNet and the tiny one."""
    before, after = unet().state_dict(), moved(unet(), by).state_dict()
    folder.mkdir(exist_ok=True)
    save_file({name: after[name] - before[name] for name in before}, folder / DIFFERENCE, MARK)
    return str(folder)
