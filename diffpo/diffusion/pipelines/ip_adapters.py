"""One picture as a prompt of two networks (IP-Adapter, arXiv:2308.06721)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class NegativeIPAdapterMixin:
    """Gives an IP-adapter (arXiv:2308.06721) to both networks."""

    def load_ip_adapter(self, *args: Any, **kwargs: Any) -> None:
        for network in networks(self):
            with standing_in(self, network):
                super().load_ip_adapter(*args, **kwargs)  # type: ignore[reportAttributeAccessIssue]

    def set_ip_adapter_scale(self, *args: Any, **kwargs: Any) -> None:
        for network in networks(self):
            with standing_in(self, network):
                super().set_ip_adapter_scale(*args, **kwargs)  # type: ignore[reportAttributeAccessIssue]

    def unload_ip_adapter(self) -> None:
        for network in networks(self):
            with standing_in(self, network):
                super().unload_ip_adapter()  # type: ignore[reportAttributeAccessIssue]


def networks(pipeline: Any) -> list[nn.Module]:
    return [network for network in (pipeline.unet, pipeline.negative_unet) if network is not None]


@contextmanager
def standing_in(pipeline: Any, network: nn.Module) -> Iterator[None]:
    """Inside, another network is the pipeline's UNet."""
    unet = pipeline.unet
    vars(pipeline)["unet"] = network
    try:
        yield
    finally:
        vars(pipeline)["unet"] = unet
