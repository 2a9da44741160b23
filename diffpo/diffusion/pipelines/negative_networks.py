"""What files of a negative preference hold, made a second network or adapters of the first."""

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import ModelHook, remove_hook_from_module
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from diffpo.core.refusal import Refusal
from diffpo.core.weights import Network
from diffpo.diffusion.base.files import find_weight_files
from diffpo.diffusion.base.parts import from_folder
from diffpo.diffusion.base.single_files import Checkpoint
from diffpo.diffusion.pipelines.negative_parts import DIFFERENCE, MARK, WeightDifference
from diffpo.diffusion.pipelines.routing import uncompiled_network
from diffpo.lora.files import LoraFile, parse_lora, read_lora
from diffpo.lora.layers import put_layers
from diffpo.lora.switch import Scales, active, adapted, switched
from diffpo.storage.digests import require_exported
from diffpo.storage.hub import name_failed_loads
from diffpo.storage.tensors import open_tensors, read_header
from diffpo.storage.whole import load_whole

NEGATIVE = "negative"


def read_difference(path: str) -> WeightDifference | None:
    """The weight difference that a local file or folder holds (`scripts/convert_weights.py mix-negative`); None for
    anything else.

    Raises:
        Refusal: if the file is broken.
    """
    place = Path(path)
    require_exported(place)
    files = find_weight_files(place, Path(DIFFERENCE).stem) if place.suffix == ".safetensors" or place.is_dir() else []
    weights = open_tensors(files)
    if place.is_file() and place.name != DIFFERENCE and not (files and MARK.items() <= read_header(place).items()):
        return None
    return WeightDifference(path, weights) if files else None


def read_full(path: str, network: Any, part: str) -> Any:
    """A network of full weights, of the positive's architecture, type and device; None if the path holds none.

    Args:
        part: of a pipeline that it is.

    Raises:
        Refusal: if it is of another architecture, or cannot be read.
    """
    local = Path(path)
    if local.is_dir() and not any((local / place / "config.json").exists() for place in ("", part)):
        return None
    if local.suffix == ".safetensors" and local.is_file() and any("lora" in name for name in open_tensors([local])):
        return None
    try:
        negative = (
            from_file(path, uncompiled_network(network), part)
            if local.is_file()
            else from_folder(type(uncompiled_network(network)), path, (part, ""), f"a {part}")
        )
    except Refusal as refusal:
        if local.exists() or not isinstance(refusal.__cause__, OSError):
            raise
        return None  # a hub id: of a LoRA, or of nothing, which its own reader says
    require_same_architecture(negative, network, path)
    # Diffusers' own `to` warns about parts that these networks do not have.
    return nn.Module.to(negative, network.device, network.dtype).requires_grad_(False)


def from_file(path: str, network: Any, part: str) -> Any:
    """A network like this one with weights from a single file."""
    if isinstance(network, UNet2DConditionModel):
        return Checkpoint.of(path, f"a {part}").unet(network.config)

    def load(**_: Any) -> tuple[Any, dict[str, Any]]:
        made: Any = type(network).from_single_file(path, dtype=torch.float32)
        absent = [name for name, parameter in made.named_parameters() if parameter.is_meta]
        return made, {"missing_keys": absent, "unexpected_keys": [], "mismatched_keys": []}

    return load_whole(load, path, f"a {part}")


def read_adapters(pipeline: Any, path: str, part: str) -> LoraFile:
    """A LoRA of one network of a pipeline; a warning says what it does to others, which is left out.

    Raises:
        Refusal: if there is none for it, or it does not fit.
    """
    network = uncompiled_network(vars(pipeline)[part])
    if isinstance(network, UNet2DConditionModel):
        file = read_lora(path, {part: network})
    else:
        with name_failed_loads(
            path, "a LoRA"
        ):  # each kind of transformer has layouts of its own, which its pipeline knows
            state, metadata = pipeline.lora_state_dict(path, return_lora_metadata=True)
        file = parse_lora(path, state, metadata, {part: network})
    if file.others:
        warnings.warn(f"{file.beside}; they are left out.", stacklevel=3)
    return file


def attach_negative(network: Any, lora: LoraFile, mix: float) -> Scales:
    """Load adapters as `NEGATIVE`, inactive and frozen; all else, training flags included, stays as it is.

    Returns:
        The adapters of the negative half: those that are active, at their own scales, and this one.

    Raises:
        Refusal: if they are a DoRA's, which rescales weights, and are not all that is added to the network.
    """
    scales = active(network)
    if (scales or mix != 1) and any(layer.magnitude is not None for layer in lora.layers.values()):
        raise Refusal(
            f"{lora.path} is a DoRA, which is added whole (mix=1) and to a network without adapters; mix is "
            f"{mix:g}, adapters are {', '.join(scales) or 'none'}. Merge it into its base and load the result."
        )
    before = {layer: (layer.active_adapters, layer.disable_adapters) for layer in adapted(network)}
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        put_layers(network, lora.layers, NEGATIVE)
    finally:
        for layer in adapted(network):
            layer._active_adapter, layer._disable_adapters = before.get(layer, ([], False))
        network.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)
    device, dtype = network.device, network.dtype  # each time, diffusers looks for them in all modules
    for name, parameter in network.named_parameters():
        if f".{NEGATIVE}." in name:
            parameter.data = parameter.data.to(device, dtype)
    return scales | {NEGATIVE: mix}


def merged_copy(network: Any, lora: LoraFile | None = None, mix: float = 1.0) -> Any:
    """A second network like this one; active adapters and, at scale `mix`, a LoRA are merged into its weights."""
    network = uncompiled_network(network)
    # The hook of an offloaded network leads to other networks, which are not to be copied.
    memo = {id(hook): ModelHook() for name, hook in vars(network).items() if name == "_hf_hook"}
    twin: Any = remove_hook_from_module(deepcopy(network, memo), recurse=True)
    scales = active(twin) if lora is None else attach_negative(twin, lora, mix)
    layers = adapted(twin)
    with switched(layers, scales):
        for layer in layers:
            layer.merge()
    if layers:
        twin.unload_lora()
    return twin.requires_grad_(False)


@torch.no_grad()
def add_difference(network: nn.Module, difference: WeightDifference, mix: float) -> None:
    """Shift weights in place by `mix` times a difference, computed in fp32.

    Raises:
        Refusal: if it is for another architecture.
    """
    state = network.state_dict()
    difference.require_fits(state)
    for name in difference.names:
        theta = state[name]
        theta.copy_(theta.float().add_(difference.offset(name, theta).to(theta.device, torch.float32), alpha=mix))


def require_same_architecture(negative: nn.Module, network: nn.Module, source: str) -> None:
    """Raise a Refusal that names the first weight that differs from the network's, and both shapes."""
    Network(source, own_weights(negative)).require_fits(own_weights(network))


def own_weights(network: nn.Module) -> dict[str, Tensor]:
    """A network's own weights, without adapters of whatever kind."""
    return {
        name.replace(".base_layer.", "."): weight
        for name, weight in uncompiled_network(network).state_dict().items()
        if not any(mark in f".{name}" for mark in (".lora_", ".processor.", ".encoder_hid_proj."))
    }
