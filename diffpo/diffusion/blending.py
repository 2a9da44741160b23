"""Weight arithmetic of negative preference: theta + alpha eta + mix delta (Diffusion-NPO, arXiv:2505.11245).

theta is a base, eta what a positively tuned network adds to it, delta what training on reversed preference adds. With
alpha near 1 the negative stays close to the positive, so that guidance amplifies the preference and not their errors.
The published code (github.com/G-U-N/Diffusion-NPO) calls (1 - alpha) `merge_weight`; the scale of its LoRA is mix.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.configuration_utils import FrozenDict
from jaxtyping import Float
from torch import Tensor, nn

from diffpo.diffusion.kohya import Layer, unet_layers
from diffpo.diffusion.stored import WEIGHTS, header, located, stored, weight_files

DIFFERENCE = "difference.safetensors"
MARK = {"diffpo": "difference"}


class Part(ABC):
    """What differs from a base by an offset.

    Attributes:
        source: where it came from.
    """

    source: str

    @property
    @abstractmethod
    def names(self) -> Set[str]:
        """Of the base's tensors that it changes."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Of the base's tensor, if this belongs to the base."""

    @abstractmethod
    def offset(self, name: str, theta: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What it adds to theta, in fp64."""

    def require_fits(self, base: Mapping[str, Tensor]) -> None:
        """Raise a ValueError that names the first tensor that the base does not have, or has in another shape."""
        for name in self.names:
            if name not in base:
                raise ValueError(
                    f"{self.source} is for another architecture: the base has no {name}; name the base it belongs to."
                )
            if (mine := self.shape(name)) != (theirs := tuple(base[name].shape)):
                raise ValueError(
                    f"{self.source} is for another architecture: its {name} is {mine}, the base's {theirs}; "
                    "name the base it belongs to."
                )


@dataclass(frozen=True, eq=False)
class Network(Part):
    """All weights of a tuned network."""

    source: str
    weights: Mapping[str, Tensor]

    @property
    def names(self) -> Set[str]:
        return self.weights.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.weights[name].shape)

    def offset(self, name: str, theta: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.weights[name].double() - theta

    def require_fits(self, base: Mapping[str, Tensor]) -> None:
        super().require_fits(base)
        if absent := [name for name in base if name not in self.weights]:
            raise ValueError(
                f"{self.source} is for another architecture: it has no {absent[0]}, the base has; "
                "name the base it belongs to."
            )


@dataclass(frozen=True, eq=False)
class Difference(Part):
    """Offsets themselves, of some or all weights, as `scripts/mix_negative.py --difference true` writes them."""

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
    """A LoRA: alpha / rank x up x down for the weight of every layer it has.

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
        return update.mul_(layer.alpha / len(layer.down)).reshape(theta.shape)


@dataclass(frozen=True, eq=False)
class Blend(Mapping[str, Tensor]):
    """theta + the scaled offsets of parts, by name and in fp64, each computed when it is asked for.

    In fp64 a whole network that is added with scale 1 comes out as its own bits after rounding.

    Args:
        base: theta.
        parts: each with its scale.

    Raises:
        ValueError: if a part does not fit the base.
    """

    base: Mapping[str, Tensor]
    parts: tuple[tuple[float, Part], ...]

    def __post_init__(self):
        for _, part in self.parts:
            part.require_fits(self.base)

    @property
    def changed(self) -> list[str]:
        """Names of what some part has an offset for."""
        return [name for name in self.base if any(name in part.names for _, part in self.parts)]

    def offset(self, name: str, theta: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Of all parts together, scaled; theta is the base's tensor of that name."""
        total = torch.zeros(theta.shape, dtype=torch.float64)
        for scale, part in self.parts:
            if name in part.names:
                total.add_(part.offset(name, theta), alpha=scale)
        return total

    def __getitem__(self, name: str) -> Float[Tensor, "..."]:
        theta = self.base[name]
        return self.offset(name, theta).add_(theta)

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)


def shift(network: nn.Module, parts: Sequence[tuple[float, Part]]) -> None:
    """Add the scaled offsets of parts to a network, in place.

    Raises:
        ValueError: if a part does not fit it.
    """
    state = network.state_dict()
    blend = Blend(state, tuple(parts))
    for name in blend.changed:
        state[name].copy_(blend[name])


def opened(path: str, config: FrozenDict) -> Part:
    """A UNet, a LoRA or a difference, whichever a path holds; weights are read later, those of a LoRA now.

    Args:
        path: hub id; folder with a UNet at its top or in `unet/`, with a LoRA or with a difference; or .safetensors
            file of one of these. Of a LoRA only the UNet's part is used; a warning says what is left out.
        config: of the base's UNet.

    Raises:
        ValueError: if it holds none of them.
    """
    place = located(path, WEIGHTS, Path(DIFFERENCE).stem)
    if place.is_file() and place.suffix != ".safetensors":
        raise ValueError(f"{path} is no .safetensors file; load it with diffusers once and save it again as one.")
    if place.is_dir() and (files := weight_files(place, Path(DIFFERENCE).stem)):
        return Difference(path, stored(files))
    files = weight_files(place)
    weights = stored(files)
    if place.is_file() and (place.name == DIFFERENCE or header(place).get("diffpo") == MARK["diffpo"]):
        return Difference(path, weights)
    if weights and not any("lora" in name for name in weights):
        require_layout(path, weights)
        return Network(path, weights)
    require_no_old_files(path, place)
    layers, others = unet_layers(path, config)
    if others:
        warnings.warn(
            f"{path} also changes other networks ({len(others)} weights, first {others[0]}); they are left out.",
            stacklevel=2,
        )
    return adapters(path, layers)


def adapters(source: str, layers: Mapping[str, Layer]) -> Adapters:
    """A LoRA by the names of its modules, as `diffpo.diffusion.kohya.unet_layers` reads it."""
    return Adapters(source, {f"{name}.weight": layer for name, layer in layers.items()})


def require_layout(path: str, weights: Mapping[str, Tensor]) -> None:
    if any(name.startswith("model.diffusion_model.") for name in weights):
        raise ValueError(
            f"{path} is a checkpoint in the original layout; convert it once with "
            "StableDiffusionPipeline.from_single_file(file).save_pretrained(folder), XL likewise, and name the folder."
        )


def require_no_old_files(path: str, place: Path) -> None:
    """Refuse a folder that has pickled weights only: they cannot be read a tensor at a time."""
    old = sorted([*place.glob("*.bin"), *place.glob("unet/*.bin")])
    if old and not any(place.glob("*.safetensors")):
        raise ValueError(
            f"{path} has its weights in {old[0].name}, not in safetensors; load it with diffusers and save it again."
        )


def require_known_range(**scales: float) -> None:
    """Warn about scales outside what was published."""
    for name, scale in scales.items():
        if not 0 <= scale <= 1:
            warnings.warn(f"{name} is {scale:g}; the published range is [0, 1].", stacklevel=3)
