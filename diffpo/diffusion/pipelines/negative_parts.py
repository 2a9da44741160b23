"""Weight arithmetic of negative preference: theta + alpha eta + mix delta (Diffusion-NPO, arXiv:2505.11245).

theta is a base, eta what a positively tuned network adds to it, delta what training on reversed preference adds. With
alpha near 1 the negative stays close to the positive, so that guidance amplifies the preference and not their errors.
The published code (github.com/G-U-N/Diffusion-NPO) calls (1 - alpha) `merge_weight`; the scale of its LoRA is mix.
"""

import warnings
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import FrozenDict
from jaxtyping import Float
from torch import Tensor

from diffpo.core.refusal import Refusal
from diffpo.core.weights import Network, Part
from diffpo.diffusion.base.files import WEIGHTS, find_weight_files, locate_weights
from diffpo.lora.files import Layer, LoraFile, read_lora
from diffpo.storage.digests import NETWORKS
from diffpo.storage.tensors import open_tensors, read_header

DIFFERENCE = "difference.safetensors"
MARK = {"diffpo": "difference"}


@dataclass(frozen=True, eq=False)
class WeightDifference(Part):
    """Offsets themselves, of some or all weights, as `scripts/convert_weights.py mix-negative --difference true`
    writes them.
    """

    source: str
    offsets: Mapping[str, Tensor]

    @property
    def names(self) -> Set[str]:
        return self.offsets.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.offsets[name].shape)

    def offset(self, name: str, theta: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.offsets[name].double()


@dataclass(frozen=True, eq=False)
class Adapters(Part):
    """A LoRA: alpha / rank x up x down for the weight of every layer it has, or what a DoRA makes of it.

    Attributes:
        layers: by the name of the weight.
    """

    source: str
    layers: Mapping[str, Layer]

    @property
    def names(self) -> Set[str]:
        return self.layers.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        layer = self.layers[name]
        return (len(layer.up), *layer.down.shape[1:])

    def offset(self, name: str, theta: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        layer = self.layers[name]
        update = layer.up.double().flatten(1) @ layer.down.double().flatten(1)
        update.mul_(layer.alpha / len(layer.down))
        if layer.magnitude is not None:
            before = theta.double().flatten(1)
            after = update.add_(before)
            scale = layer.magnitude.double() / after.norm(dim=1)
            update = after.mul_(scale[:, None]).sub_(before)
        return update.reshape(theta.shape)


def open_part(path: str, config: FrozenDict, kind: Any = UNet2DConditionModel) -> Part:
    """A network, a LoRA or a difference, whichever a path holds; weights are read later, those of a LoRA now.

    Args:
        path: hub id; folder with a network at its top, in `unet/` or `transformer/`, with a LoRA or with a
            difference; or .safetensors file of one of these. Of a LoRA only the network's part is used; a warning says
            what is left out.
        config: of the base's network.
        kind: its class.

    Raises:
        Refusal: if it holds none of them.
    """
    place = locate_weights(path, WEIGHTS, Path(DIFFERENCE).stem)
    if place.is_file() and place.suffix != ".safetensors":
        raise Refusal(f"{path} is no .safetensors file; load it with diffusers once and save it again as one.")
    if place.is_dir() and (files := find_weight_files(place, Path(DIFFERENCE).stem)):
        return WeightDifference(path, open_tensors(files))
    files = find_weight_files(place)
    weights = open_tensors(files)
    if place.is_file() and (place.name == DIFFERENCE or read_header(place).get("diffpo") == MARK["diffpo"]):
        return WeightDifference(path, weights)
    if weights and not any("lora" in name for name in weights):
        require_layout(path, weights)
        return Network(path, weights)
    require_no_old_files(path, place)
    with torch.device("meta"):
        network: Any = kind.from_config(config)
    file = read_lora(path, {part_named(kind): network})
    if file.others:
        warnings.warn(f"{file.beside}; they are left out.", stacklevel=2)
    return adapters(file)


def part_named(kind: Any) -> str:
    """How pipelines call a network of a class, and its folder."""
    return "unet" if issubclass(kind, UNet2DConditionModel) else "transformer"


def adapters(file: LoraFile) -> Adapters:
    """What a LoRA adds to its first network."""
    return Adapters(file.path, {f"{name}.weight": layer for name, layer in file.layers.items()})


def require_layout(path: str, weights: Mapping[str, Tensor]) -> None:
    if any(name.startswith("model.diffusion_model.") for name in weights):
        raise Refusal(
            f"{path} is a checkpoint in the original layout; convert it once with "
            "StableDiffusionPipeline.from_single_file(file).save_pretrained(folder), XL likewise, and name the folder."
        )


def require_no_old_files(path: str, place: Path) -> None:
    """Refuse a folder that has pickled weights only: they cannot be read a tensor at a time."""
    old = sorted([*place.glob("*.bin"), *(file for name in NETWORKS for file in place.glob(f"{name}/*.bin"))])
    if old and not any(place.glob("*.safetensors")):
        raise Refusal(
            f"{path} has its weights in {old[0].name}, not in safetensors; load it with diffusers and save it again."
        )


def require_known_range(**scales: float) -> None:
    """Warn about scales outside what was published."""
    for name, scale in scales.items():
        if not 0 <= scale <= 1:
            warnings.warn(f"{name} is {scale:g}; the published range is [0, 1].", stacklevel=3)
