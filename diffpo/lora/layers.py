"""The layers of a LoRA put into a network by peft, and a check that all of them are there."""

import copy
import re
from collections import Counter
from collections.abc import Mapping
from math import isclose
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import PeftAdapterMixin
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from diffpo.lora.files import Layer

OUTER = "base_model.model."  # of names in peft's files: where a network stands in a PeftModel


def put_layers(network: Any, layers: Mapping[str, Layer], adapter: str, dropout: float = 0.0) -> None:
    """Add layers to a network of diffusers', beside adapters that are there.

    Args:
        layers: as `diffpo.lora.files.read_lora` gives them.
        adapter: its name.
        dropout: on the input of the updates.
    """
    if not loads_loras(type(network)):
        put_text(network, layers, adapter, dropout)
        return
    settings = peft_settings(layers, dropout)
    with torch.random.fork_rng(devices=[]):  # peft draws weights, which are then replaced
        network.load_lora_adapter(peft_state(layers), prefix=None, adapter_name=adapter, metadata=settings)
    require_put(network, layers, adapter)


def loads_loras(network: Any) -> bool:
    """Whether diffusers loads LoRAs into networks of a class by itself."""
    return issubclass(network, PeftAdapterMixin)


def put_text(network: nn.Module, layers: Mapping[str, Layer], adapter: str, dropout: float = 0.0) -> None:
    """Add layers to a network of transformers', whose own loader asks for certain releases of peft, or to one that has
    no loader."""
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(LoraConfig(**peft_settings(layers, dropout)), network, adapter)
        set_peft_model_state_dict(network, peft_state(layers), adapter)
    require_put(network, layers, adapter)


def peft_state(layers: Mapping[str, Layer]) -> dict[str, Tensor]:
    state = {}
    for name, layer in layers.items():
        state |= {f"{name}.lora_A.weight": layer.down, f"{name}.lora_B.weight": layer.up}
        if layer.magnitude is not None:
            shape = (-1,) if layer.up.ndim == 2 else (1, -1, *layer.up.shape[2:])
            state[f"{name}.lora_magnitude_vector"] = layer.magnitude.reshape(shape)
    return state


def peft_settings(layers: Mapping[str, Layer], dropout: float = 0.0) -> dict[str, Any]:
    """Of a `LoraConfig`: rank and alpha are the most common ones; patterns tell which layers differ."""
    ranks = {name: len(layer.down) for name, layer in layers.items()}
    alphas = {name: layer.alpha for name, layer in layers.items()}
    return {
        "r": most_common_value(ranks),
        "lora_alpha": most_common_value(alphas),
        "rank_pattern": group_pattern(ranks),
        "alpha_pattern": group_pattern(alphas),
        "target_modules": sorted(layers),
        "use_dora": any(layer.magnitude is not None for layer in layers.values()),
        "lora_dropout": dropout,
    }


def most_common_value(values: Mapping[str, Any]) -> Any:
    """The most common one; of several, the smallest."""
    counts = Counter(values.values())
    return min(counts, key=lambda value: (-counts[value], value))


def group_pattern(values: Mapping[str, Any]) -> dict[str, Any]:
    """The layers of each value that is not the most common one, as one expression, since peft tries all for each."""
    found = {}
    for value in sorted(set(values.values()) - {most_common_value(values)}):
        names = sorted(re.escape(name) for name in values if values[name] == value)
        found[f"^(?:{'|'.join(names)})"] = value
    return found


def save_for_peft(network: Any, layers: Mapping[str, Tensor], adapter: str, folder: Path) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`, as `PeftModel.from_pretrained` loads them.

    Args:
        layers: as peft's `get_peft_model_state_dict` gives them.
        adapter: its name in the network.
    """
    config = copy.copy(network.peft_config[adapter])
    vars(config).update({key: sorted(x) for key, x in vars(config).items() if isinstance(x, set)})
    config.save_pretrained(str(folder))
    weights = {f"{OUTER}{name}": tensor.contiguous() for name, tensor in layers.items()}
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})


def require_put(network: nn.Module, layers: Mapping[str, Layer], adapter: str) -> None:
    """Raise a RuntimeError unless a network has exactly these layers as an adapter, each with the same numbers."""
    tuned: dict[str, Any] = {n: module for n, module in network.named_modules() if isinstance(module, BaseTunerLayer)}
    there = {name for name, module in tuned.items() if adapter in module.scaling}
    if odd := sorted(there ^ layers.keys()):
        raise RuntimeError(f"{len(there)} of {len(layers)} layers of a LoRA were loaded; {odd[0]} is the first odd.")
    for name, layer in layers.items():
        module = tuned[name]
        pairs = [(module.lora_A[adapter].weight, layer.down), (module.lora_B[adapter].weight, layer.up)]
        if layer.magnitude is not None:
            pairs.append((module.lora_magnitude_vector[adapter].weight.flatten(), layer.magnitude))
        same = all(torch.equal(mine.detach().cpu(), theirs.to(mine.dtype)) for mine, theirs in pairs)
        if not same or not isclose(module.scaling[adapter] * len(layer.down), layer.alpha, rel_tol=1e-6):
            raise RuntimeError(f"{name} of a LoRA was loaded with other numbers than the file has.")
