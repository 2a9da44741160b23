"""LoRA files for other programs: the layout of kohya's trainer, which A1111, Forge, ComfyUI and diffusers read.

Every layer is `lora_unet_<name>.lora_down.weight`, `.lora_up.weight` and `.alpha`, where the name is that of diffusers
with `_` for `.`, and adds alpha / rank x up x down. ComfyUI (github.com/comfyanonymous/ComfyUI, comfy/lora.py) knows
these names for all bases; A1111 (github.com/AUTOMATIC1111/stable-diffusion-webui, extensions-builtin/Lora) translates
them to its own, SDXL's included. Only kohya's own SDXL tools (github.com/kohya-ss/sd-scripts) want the names of the
original UNet instead (`lora_unet_input_blocks_4_1_...`). A1111 tells bases apart by `ss_base_model_version` and
`ss_v2`; a file with metadata that lacks them counts as SD1.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.configuration_utils import FrozenDict
from diffusers.utils import convert_unet_state_dict_to_peft
from jaxtyping import Float
from peft.utils.other import get_pattern_key
from safetensors.torch import save_file
from torch import Tensor

from diffpo.files import writing
from diffpo.hub import reaching
from diffpo.refusal import Refusal

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

CONTEXT = ("attn2.to_k", "attn2.to_v")
LAYERS = (".lora_A.weight", ".lora_B.weight")
# What diffusers makes of the original UNet's names without its config.
ORIGINAL = re.compile(r"(down|up)_blocks\.\d+\.\d")


@dataclass(frozen=True, eq=False)
class Layer:
    """The update alpha / rank x up x down of one linear or convolution layer."""

    down: Float[Tensor, "rank ..."]
    up: Float[Tensor, "out rank ..."]
    alpha: float


def export_kohya(lora: str, output: Path, dtype: torch.dtype = torch.float16) -> dict[str, str]:
    """Write a UNet's LoRA in kohya's layout and return the metadata of the file.

    Args:
        lora: hub id, folder or file that `load_lora_weights` reads.
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
        key = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{key}.lora_down.weight"] = layer.down.to(dtype).contiguous()
        tensors[f"{key}.lora_up.weight"] = layer.up.to(dtype).contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(layer.alpha)
    metadata = describe(layers) | {"ss_output_name": output.stem, "modelspec.title": output.stem}
    with writing(str(output), "the LoRA itself is untouched"):
        output.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, output, metadata)
    return metadata


def read_layers(lora: str) -> dict[str, Layer]:
    """The layers of a LoRA that changes a UNet alone, by the names of the modules they belong to."""
    layers, others = unet_layers(lora)
    if others:
        raise Refusal(
            f"{lora} also changes other networks ({len(others)} weights, first {others[0]}); only a UNet's part is "
            "exported. Save the UNet's part alone with save_lora_weights(folder, unet_lora_layers=...)."
        )
    return layers


def unet_layers(lora: str, config: FrozenDict | None = None) -> tuple[dict[str, Layer], list[str]]:
    """The layers of a UNet's LoRA by the names of the modules they belong to, whatever layout the file has.

    Args:
        lora: hub id, folder or file that `load_lora_weights` reads.
        config: of the UNet; with it, layers that are named as in the original SDXL UNet are understood too.

    Returns:
        The layers, and the names of weights that belong to other networks.

    Raises:
        Refusal: if it is no plain LoRA, or has nothing for a UNet.
    """
    with reaching(lora, "a LoRA"):
        loaded: Any = StableDiffusionPipeline.lora_state_dict(lora, unet_config=config, return_lora_metadata=True)
    state, alphas, metadata = loaded
    unet = {name.removeprefix("unet."): value for name, value in state.items() if name.startswith("unet.")}
    if not unet or not all("lora" in name for name in unet):
        names = ", ".join(sorted(state)[:2])
        raise Refusal(f"{lora} holds no LoRA of a UNet (its weights are {names}, ...); name one that does.")
    parts = convert_unet_state_dict_to_peft(unet)
    down, up = ({n.removesuffix(end): v for n, v in parts.items() if n.endswith(end)} for end in LAYERS)
    if down.keys() != up.keys() or len(parts) != len(down) + len(up):
        odd = sorted(name for name in parts if not name.endswith(LAYERS)) or sorted(down.keys() ^ up.keys())
        raise Refusal(f"{lora} is no plain LoRA ({odd[0]}); DoRA and biases cannot be read, merge it instead.")
    if original := [name for name in down if ORIGINAL.match(name)]:
        raise Refusal(
            f"{lora} names layers as the original SDXL UNet does ({len(original)} of {len(down)}): it is in kohya's "
            "layout already; other programs read it as it is."
        )
    beside = {
        key.removeprefix("unet.").removesuffix(".alpha").removesuffix(LAYERS[0]): float(value)
        for key, value in convert_unet_state_dict_to_peft(alphas or {}).items()
    }
    layers = {name: Layer(down[name], up[name], alpha(name, len(down[name]), beside, metadata)) for name in down}
    return layers, sorted(state.keys() - {f"unet.{name}" for name in unet})


def alpha(name: str, rank: int, beside: dict[str, float], metadata: dict[str, Any] | None) -> float:
    """Of one layer: stored beside it (kohya), in the metadata (peft), or else its rank, as for diffusers."""
    if beside:
        return beside[name]
    if metadata is None:
        return float(rank)
    pattern = metadata["unet.alpha_pattern"]
    found = float(pattern.get(get_pattern_key(pattern.keys(), name), metadata["unet.lora_alpha"]))
    # Rank-stabilized LoRA (arXiv:2312.03732) divides alpha by the root of the rank.
    return found * rank**0.5 if metadata["unet.use_rslora"] else found


def one_alpha(layers: dict[str, Layer]) -> dict[str, Layer]:
    """The same updates with the most common alpha everywhere: diffusers 0.42 ignores others in kohya's layout."""
    alpha = Counter(layer.alpha for layer in layers.values()).most_common(1)[0][0]
    return {name: Layer(layer.down, layer.up * (layer.alpha / alpha), alpha) for name, layer in layers.items()}


def describe(layers: dict[str, Layer]) -> dict[str, str]:
    """What other programs show and sort by; all layers have the same alpha."""
    ranks = {str(len(layer.down)) for layer in layers.values()}
    width = next((layer.down.shape[1] for name, layer in layers.items() if name.endswith(CONTEXT)), 0)
    return BASES.get(width, {}) | {
        "ss_network_module": "networks.lora",
        "ss_network_dim": ranks.pop() if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{next(iter(layers.values())).alpha:g}",
    }
