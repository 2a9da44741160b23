"""Which of the adapters that a network carries are on."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

Scales = Mapping[str, float | None]


def adapted(network: nn.Module) -> list[Any]:
    """Modules that are BaseTunerLayers too, which no type can say."""
    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]


def active(network: nn.Module) -> dict[str, float | None]:
    """Adapters that are on, at their own scales."""
    layers = [layer for layer in adapted(network) if not layer.disable_adapters]
    return dict.fromkeys(name for layer in layers for name in layer.active_adapters)


# peft's own switches also walk through the parameters of every layer to freeze and thaw them: 20 ms of Python per step
# at Stable Diffusion's size, and a frozen second adapter is thawed. A pass without gradient needs the flags alone.


@contextmanager
def switched(layers: list[Any], scales: Scales) -> Iterator[None]:
    """Inside, the named adapters are active and no others; without any name, the network is what it is without them.

    What is trainable stays so.

    Args:
        layers: those of `adapted`.
        scales: by name of the adapter; None is the one that it has.
    """
    kept = [(layer._active_adapter, layer._disable_adapters, dict(layer.scaling)) for layer in layers]
    for layer in layers:
        layer._active_adapter, layer._disable_adapters = list(scales), not scales
        for name, scale in scales.items():
            if scale is not None:
                layer.set_scale(name, scale)
    try:
        yield
    finally:
        for layer, (names, disabled, scaling) in zip(layers, kept, strict=True):
            layer._active_adapter, layer._disable_adapters = names, disabled
            layer.scaling.update(scaling)
