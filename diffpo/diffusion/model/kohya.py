"""LoRA files for other programs: the layout of kohya's trainer, which A1111, Forge, ComfyUI and diffusers read.

Every layer is `lora_unet_<name>.lora_down.weight`, `.lora_up.weight` and `.alpha`, where the name is that of diffusers
with `_` for `.`, and adds alpha / rank x up x down. ComfyUI (github.com/comfyanonymous/ComfyUI, comfy/lora.py) knows
these names for all bases; A1111 (github.com/AUTOMATIC1111/stable-diffusion-webui, extensions-builtin/Lora) translates
them to its own, SDXL's included. Only kohya's own SDXL tools (github.com/kohya-ss/sd-scripts) want the names of the
original UNet instead (`lora_unet_input_blocks_4_1_...`). A1111 tells bases apart by `ss_base_model_version` and
`ss_v2`; a file with metadata that lacks them counts as SD1.
"""

from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffpo.core.refusal import Refusal
from diffpo.lora.files import Layer, read_lora
from diffpo.lora.names import ORIGINAL, TOP
from diffpo.storage.files import name_failed_writes, sort_metadata

# By the width of the text states that cross-attention reads. SD2 comes with epsilon and v, which weights do not tell.
BASES = {
    768: {
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
    },
    1024: {"ss_base_model_version": "sd_v2", "ss_v2": "True"},
    2048: {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_v2": "False",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
    },
}

# Layers of SDXL that diffusers finds in a kohya file by their original names alone.
EXCEPTIONS = {name: TOP[name] for name in ("add_embedding.linear_1", "add_embedding.linear_2")}
CONTEXT = ("attn2.to_k", "attn2.to_v", "attn2_to_k", "attn2_to_v")


def export_kohya(lora: str, output: Path, dtype: torch.dtype = torch.float16) -> dict[str, str]:
    """Write a UNet's LoRA in kohya's layout and return the metadata of the file.

    Args:
        lora: hub id, folder or file, see `diffpo.lora.files.read_lora`.
        output: a .safetensors file that does not exist yet.
        dtype: of the weights; alphas stay fp32.

    Raises:
        Refusal: if `lora` is no LoRA, or holds more than plain updates of a UNet, or `output` has another ending or
            exists already.
        Refusal: if the disk is full.
    """
    if output.suffix != ".safetensors":
        raise Refusal(f"{output} does not end in .safetensors, by which other programs know a LoRA; rename it.")
    if output.exists():
        raise Refusal(f"{output} exists already and is not overwritten; choose another name, or remove it.")
    layers = one_alpha(read_layers(lora))
    tensors = {}
    for name, layer in layers.items():
        key = f"lora_unet_{name}"
        tensors[f"{key}.lora_down.weight"] = layer.down.to(dtype).contiguous()
        tensors[f"{key}.lora_up.weight"] = layer.up.to(dtype).contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(layer.alpha)
    metadata = describe_layers(layers) | {"ss_output_name": output.stem, "modelspec.title": output.stem}
    with name_failed_writes(str(output), "the LoRA itself is untouched"):
        output.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, output, metadata)
        sort_metadata(output)
    return metadata


def read_layers(lora: str) -> dict[str, Layer]:
    """The layers of a LoRA that changes a UNet alone, by the names of their modules with `_` for `.`."""
    file = read_lora(lora, {"unet": None})
    if file.others:
        raise Refusal(
            f"{file.beside}; only a UNet's part is exported. Save the UNet's part alone with "
            "save_lora_weights(folder, unet_lora_layers=...)."
        )
    layers = file.layers
    if original := [name for name in layers if ORIGINAL.match(name)]:
        raise Refusal(
            f"{lora} names layers as the original SDXL UNet does ({len(original)} of {len(layers)}): it is in kohya's "
            "layout already; other programs read it as it is."
        )
    if dora := [name for name, layer in layers.items() if layer.magnitude is not None]:
        raise Refusal(
            f"{lora} is no plain LoRA ({dora[0]} has a lora_magnitude_vector): DoRA is not exported, since diffusers "
            "and others drop it from kohya's layout; merge it into its base instead."
        )
    return {EXCEPTIONS.get(name, name).replace(".", "_"): layer for name, layer in layers.items()}


def one_alpha(layers: dict[str, Layer]) -> dict[str, Layer]:
    """The same updates with the most common alpha everywhere: diffusers 0.42 ignores others in kohya's layout."""
    alpha = Counter(layer.alpha for layer in layers.values()).most_common(1)[0][0]
    return {name: Layer(layer.down, layer.up * (layer.alpha / alpha), alpha) for name, layer in layers.items()}


def describe_layers(layers: dict[str, Layer]) -> dict[str, str]:
    """What other programs show and sort by; all layers have the same alpha."""
    ranks = {str(len(layer.down)) for layer in layers.values()}
    width = next((layer.down.shape[1] for name, layer in layers.items() if name.endswith(CONTEXT)), 0)
    return BASES.get(width, {}) | {
        "ss_network_module": "networks.lora",
        "ss_network_dim": ranks.pop() if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{next(iter(layers.values())).alpha:g}",
    }
