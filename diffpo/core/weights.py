"""Arithmetic of weights: a network plus scaled offsets, tensor by tensor and in fp64."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffpo.core.refusal import Refusal


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
        """Raise a Refusal that names the first tensor that the base does not have, or has in another shape."""
        for name in self.names:
            if name not in base:
                raise Refusal(
                    f"{self.source} is for another architecture: the base has no {name}; name the base it belongs to."
                )
            if (mine := self.shape(name)) != (theirs := tuple(base[name].shape)):
                raise Refusal(
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
            raise Refusal(
                f"{self.source} is for another architecture: it has no {absent[0]}, the base has; "
                "name the base it belongs to."
            )


@dataclass(frozen=True, eq=False)
class Blend(Mapping[str, Tensor]):
    """theta + the scaled offsets of parts, by name and in fp64, each computed when it is asked for.

    In fp64 a whole network that is added with scale 1 comes out as its own bits after rounding.

    Args:
        base: theta.
        parts: each with its scale.

    Raises:
        Refusal: if a part does not fit the base.
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


def shift_weights(network: nn.Module, parts: Sequence[tuple[float, Part]]) -> None:
    """Add the scaled offsets of parts to a network, in place.

    Raises:
        Refusal: if a part does not fit it.
    """
    state = network.state_dict()
    blend = Blend(state, tuple(parts))
    for name in blend.changed:
        state[name].copy_(blend[name])
