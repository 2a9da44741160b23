"""LoRAs of the tiny networks, in the layout of every program that writes some."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from single_file import unet_name
from tiny import image_batch, unet
from torch import Tensor

from diffpo.diffusion.model.lora import LoRA
from diffpo.lora.files import METADATA, Layer, layer_shapes
from diffpo.lora.layers import peft_settings, peft_state

SOME = ("attn1.to_q", "attn2.to_k", "to_out.0", "proj_in", "conv1", "conv_in", "ff.net.2", "time_emb_proj")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def layers_of(network, targets: Iterable[str] = SOME, rank: int = 2, dora: bool = False, alphas=(1.0, 3.0, 3.0)):
    """Random updates of some layers of a network, whose alphas differ."""
    rng = torch.Generator().manual_seed(0)
    layers = {}
    for name, (out, *inner) in layer_shapes(network).items():
        if f".{name}".endswith(tuple(f".{target}" for target in targets)):
            down = torch.randn(rank, *inner, generator=rng)
            up = 0.1 * torch.randn(out, rank, *(1,) * (len(inner) - 1), generator=rng)
            magnitude = torch.rand(out, generator=rng) + 0.5 if dora else None
            layers[name] = Layer(down, up, alphas[len(layers) % len(alphas)], magnitude)
    return layers


def dotted(before: str, down: str, up: str) -> Callable[[str], dict[str, str]]:
    """Names of a layer's weights that keep its own name."""
    roles = {"down": down, "up": up, "magnitude": "lora_magnitude_vector"}
    return lambda name: {role: f"{before}{name}.{ending}" for role, ending in roles.items()}


def kohya(before: str, original: bool, mark: str = "_") -> Callable[[str], dict[str, str]]:
    roles = {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha", "magnitude": "dora_scale"}

    def names(name: str) -> dict[str, str]:
        layer = unet_name(f"{name}.weight", 1).removesuffix(".weight") if original else name
        return {role: f"{before}{layer.replace('.', mark)}.{ending}" for role, ending in roles.items()}

    return names


def processors(name: str) -> dict[str, str]:
    """As diffusers wrote them when adapters were attention processors."""
    stem, _, last = name.rpartition(".to_")
    if not stem:
        return dotted("unet.", "lora.down.weight", "lora.up.weight")(name)
    layer = f"unet.{stem}.processor.to_{last.removesuffix('.0')}_lora"
    return {"down": f"{layer}.down.weight", "up": f"{layer}.up.weight"}


def both_styles(name: str) -> dict[str, str]:
    """As `convert_state_dict_to_diffusers` names a UNet's layers, and this package did until it was seen."""
    old = f".{name}".endswith(tuple(f".{target}" for target in ATTENTION))
    return (DIFFUSERS if old else PEFT)(name)


def peft_of(before: str) -> Callable[[str], dict[str, str]]:
    return dotted(before, "lora_A.weight", "lora_B.weight")


PEFT = peft_of("unet.")
DIFFUSERS = dotted("unet.", "lora.down.weight", "lora.up.weight")
LAYOUTS: dict[str, Callable[[str], dict[str, str]]] = {
    "peft's names": PEFT,
    "diffusers' names": DIFFUSERS,
    "both": both_styles,
    "attention processors": processors,
    "no network": peft_of(""),
    "peft": peft_of("base_model.model."),
    "a peft model's state": dotted("base_model.model.", "lora_A.default.weight", "lora_B.default.weight"),
    "kohya": kohya("lora_unet_", original=False),
    "kohya for SDXL": kohya("lora_unet_", original=True),
    "ComfyUI": kohya("diffusion_model.", original=True, mark="."),
}
WRAPPED: dict[str, Callable[[str], dict[str, str]]] = {
    "compiled": peft_of("unet._orig_mod."),
    "compiled before": dotted("_orig_mod.unet.", "lora.down.weight", "lora.up.weight"),
    "DDP": peft_of("module.unet."),
    "DDP inside": peft_of("unet.module."),
    "a trainer's policy": peft_of("policy.module."),
    "peft in all of them": peft_of("base_model.model._orig_mod.module."),
    "kohya compiled": kohya("lora_unet__orig_mod_", original=False),
}


def written(layers: dict[str, Layer], names: Callable[[str], dict[str, str]]) -> dict[str, Tensor]:
    """The tensors of a file; alphas only where the layout has them beside the weights."""
    state = {}
    for name, layer in layers.items():
        parts = {"down": layer.down, "up": layer.up, "alpha": torch.tensor(layer.alpha)}
        keys = names(name)
        if layer.magnitude is not None:
            rows = peft_state({name: layer})[f"{name}.lora_magnitude_vector"]
            column = layer.magnitude.reshape(-1, *(1,) * (layer.down.ndim - 1))
            parts["magnitude"] = column if "dora_scale" in keys["magnitude"] else rows
        state |= {keys[role]: part.contiguous() for role, part in parts.items() if role in keys}
    return state


def settings_of(layers: dict[str, Layer], part: str = "unet") -> dict[str, str]:
    """The metadata that diffusers writes, in which alphas are."""
    return {METADATA: json.dumps({f"{part}.{name}": value for name, value in peft_settings(layers).items()})}


def saved_layers(
    path: Path, layers: dict[str, Layer], layout: str = "peft's names", extra: dict[str, Tensor] | None = None
) -> str:
    """A file in some layout, with every alpha in it, and other tensors beside."""
    names = (LAYOUTS | WRAPPED)[layout]
    beside = "alpha" in names("conv_in")
    save_file(written(layers, names) | (extra or {}), path, None if beside else settings_of(layers))
    return str(path)


def output(network) -> torch.Tensor:
    """What a tiny UNet says of a fixed batch."""
    batch = image_batch()
    with torch.no_grad():
        return network(
            batch.latents.flatten(0, 1), torch.tensor(500), batch.cond.states["prompt"].flatten(0, 1)
        ).sample


def shift_adapter(network, name: str = "default") -> None:
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if f".{name}." in key:
                parameter.add_(0.1)


def save_shifted(folder):
    """Write a trained LoRA of the tiny UNet as diffusers does; the UNet that has it."""
    network = unet()
    LoRA(rank=2, alpha=6.0).attach(network)
    shift_adapter(network)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(network, adapter_name="default"))
    metadata = network.peft_config["default"].to_dict()
    StableDiffusionPipeline.save_lora_weights(folder, layers, unet_lora_adapter_metadata=metadata)
    return network
