"""LoRA on a network: what is trained, and the switch that turns the policy into its own reference."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from peft import get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from diffpo.core.refusal import Refusal
from diffpo.core.sharding import whole_state
from diffpo.lora.files import FILES, read_lora
from diffpo.lora.layers import require_put
from diffpo.storage.files import settle

TRAINED = "default"

START = "ref"

Switch = Callable[[nn.Module], AbstractContextManager]


class Adapter(ABC):
    """A small trained part inside a frozen network.

    Attributes:
        start: where its weights come from, if the reference has them too; None if the reference is the bare network.
        tags: of the model card.
    """

    start: str | None = None
    tags: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def attach(self, unet: Any, seed: int = 0) -> None:
        """Freeze the network and add trainable adapters in fp32.

        Args:
            seed: of adapters that start at random.

        Raises:
            Refusal: if the network carries adapters already.
        """

    @abstractmethod
    def off(self, unet: nn.Module) -> AbstractContextManager:
        """Inside, the network is what it was when training started."""

    @abstractmethod
    def save(self, pipeline: Any, folder: Path, writes: bool = True) -> None:
        """Write what was trained in a pipeline's UNet.

        Args:
            writes: False on all processes but one. Each has to call this, because weights may be sharded over them.
        """

    @abstractmethod
    def load(self, pipeline: Any, folder: Path) -> None:
        """Give the pipeline of a bare base what `save` wrote."""

    @abstractmethod
    def snippet(self, where: str) -> list[str]:
        """Lines of Python that do so for `pipe`, for the model card.

        Args:
            where: folder or hub id.
        """


class LowRank(Adapter):
    """Adapters of peft's, saved as plain diffusers loads them: `pytorch_lora_weights.safetensors`."""

    tags: ClassVar[tuple[str, ...]] = ("lora", "template:diffusion-lora")

    def save(self, pipeline: Any, folder: Path, writes: bool = True) -> None:
        """Write peft's names for all layers: of a file with some of diffusers' own names only those are loaded."""
        unet = pipeline.unet
        trained = whole_state(unet, [name for name, p in unet.named_parameters() if p.requires_grad])
        if writes:
            layers = get_peft_model_state_dict(unet, state_dict=trained, adapter_name=TRAINED)
            adapter = unet.peft_config[TRAINED]
            metadata = adapter.to_dict() | {"target_modules": sorted(adapter.target_modules)}  # a set, in any order
            type(pipeline).save_lora_weights(folder, layers, unet_lora_adapter_metadata=metadata)
            settle(folder / FILES[0])

    def load(self, pipeline: Any, folder: Path) -> None:
        """As any user would, and see that every layer of the file is there.

        Raises:
            RuntimeError: if one is not.
        """
        file = read_lora(str(folder), {"unet": pipeline.unet})
        pipeline.load_lora_weights(str(folder), adapter_name=TRAINED)
        require_put(pipeline.unet, file.layers, TRAINED)

    def snippet(self, where: str) -> list[str]:
        return [f'pipe.load_lora_weights("{where}")']


def linear_layers(network: nn.Module) -> list[str]:
    return sorted({n.rpartition(".")[2] for n, module in network.named_modules() if isinstance(module, nn.Linear)})


def carries_adapters(unet: nn.Module) -> bool:
    return any(isinstance(module, BaseTunerLayer) for module in unet.modules())


def require_bare(unet: nn.Module) -> None:
    if carries_adapters(unet):
        raise Refusal(
            "The UNet already carries adapters; merge them into it first (pipe.fuse_lora()), or train them further "
            "with base.adapter diffpo.diffusion.WarmLoRA."
        )


# peft's own switches also walk through the parameters of every layer to freeze and thaw them: 20 ms of Python per step
# at Stable Diffusion's size, and a frozen second adapter is thawed. A pass without gradient needs the flags alone.


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Every adapter of the model is off; what is trainable stays so.

    Raises:
        Refusal: if the model carries no adapters.
    """
    layers = adapter_layers(model)
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def adapter_only(name: str) -> Switch:
    """Inside, the named adapter alone is active; afterwards those are that were. What is trainable stays so."""

    @contextmanager
    def switched(model: nn.Module) -> Iterator[None]:
        layers = adapter_layers(model)
        active = [layer.active_adapters for layer in layers]
        for layer in layers:
            layer._active_adapter = [name]
        try:
            yield
        finally:
            for layer, names in zip(layers, active, strict=True):
                layer._active_adapter = names

    return switched


def adapter_layers(model: nn.Module) -> list[Any]:
    """Modules that are BaseTunerLayers too, which no type can say."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if not layers:
        raise Refusal(f"{type(model).__name__} has no adapters to switch; set base.adapter, or use FrozenCopy.")
    return layers


def only_trainable(layers: list[Any], trainable: list[nn.Parameter]) -> None:
    """Undo what peft's switches do to `requires_grad` (they thaw a frozen second adapter)."""
    for layer in layers:
        layer.requires_grad_(False)
    for parameter in trainable:
        parameter.requires_grad_(True)
