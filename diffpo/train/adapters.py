"""LoRA on a network: what is trained, and the switch that turns the policy into its own reference."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from torch import nn

from diffpo.core.refusal import Refusal
from diffpo.lora.switch import adapted, switched

TRAINED = "default"

START = "ref"

Switch = Callable[[nn.Module], AbstractContextManager]


class Adapter(ABC):
    """A small trained part inside a frozen network.

    Attributes:
        start: where its weights come from, if the reference has them too; None if the reference is the bare network.
        tags: of the model card.
        hears_users: whether rows have to tell who judged them.
        reads_base: whether `attach` reads weights of the network, which then have to be there in fp32.
    """

    start: str | None = None
    tags: ClassVar[tuple[str, ...]] = ()
    hears_users: ClassVar[bool] = False
    reads_base: ClassVar[bool] = True

    def suited(self, targets: Sequence[str]) -> "Adapter":
        """The same adapter for a network in which these layers get one, unless it was told others."""
        return self

    def tell_untold(self, pipeline: Any, base: str) -> None:
        """Warn of what the pipeline of a base does not tell its network, and did when the adapter began."""

    @abstractmethod
    def attach(self, network: Any, seed: int = 0) -> None:
        """Freeze the network and add trainable adapters in fp32.

        Args:
            seed: of adapters that start at random.

        Raises:
            Refusal: if the network carries adapters already.
        """

    @abstractmethod
    def off(self, network: nn.Module) -> AbstractContextManager:
        """Inside, the network is what it was when training started."""

    @abstractmethod
    def save(self, pipeline: Any, folder: Path, writes: bool = True) -> None:
        """Write what was trained in a pipeline's network.

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


@dataclass(frozen=True)
class LowRank(Adapter):
    """New adapters of peft's that start as zero (arXiv:2106.09685); the reference is the network without them.

    Args:
        rank: of each update.
        alpha: updates are scaled by alpha / rank; null is alpha = rank.
        targets: names of the layers that get one.
        dropout: on the input of the updates.

    Raises:
        Refusal: if rank or alpha are not positive, or there are no targets.
    """

    rank: int = 8
    alpha: float | None = None
    targets: list[str] | None = field(default_factory=list)
    dropout: float = 0.0

    def __post_init__(self):
        if self.rank < 1:
            raise Refusal(f"{type(self).__name__} needs a rank of at least 1, got {self.rank}.")
        if self.alpha is not None and not self.alpha > 0:
            raise Refusal(
                f"{type(self).__name__} needs an alpha above 0 to add anything, got {self.alpha}; "
                "null is alpha = rank."
            )
        if self.targets is not None and not self.targets:
            raise Refusal(
                f"{type(self).__name__} needs the names of layers in base.adapter.targets, got none; leave it out for "
                "those of attention."
            )

    def attach(self, network: Any, seed: int = 0) -> None:
        require_bare(network)
        assert self.targets is not None
        names = [name for name, _ in network.named_modules()]
        for target in self.targets:
            if not any(f".{name}".endswith(f".{target}") for name in names):
                raise Refusal(
                    f"{type(network).__name__} has no layer {target!r}; name others in base.adapter.targets, its "
                    f"linear layers are {', '.join(linear_layers(network))}."
                )
        network.requires_grad_(False)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.rank if self.alpha is None else self.alpha,  # type: ignore[arg-type]
            target_modules=self.targets,
            lora_dropout=self.dropout,
            init_lora_weights="gaussian",
        )
        with torch.random.fork_rng(devices=[]):  # peft draws on the CPU
            torch.default_generator.manual_seed(seed)
            self.inject(network, config)
        cast_training_params(network, dtype=torch.float32)

    @abstractmethod
    def inject(self, network: Any, config: LoraConfig) -> None:
        """Put the adapters into a network in place.

        Raises:
            Refusal: if peft has none for such layers.
        """

    def off(self, network: nn.Module) -> AbstractContextManager:
        return adapters_off(network)


def linear_layers(network: nn.Module) -> list[str]:
    return sorted({n.rpartition(".")[2] for n, module in network.named_modules() if isinstance(module, nn.Linear)})


def carries_adapters(network: nn.Module) -> bool:
    return bool(adapted(network))


def require_bare(network: nn.Module) -> None:
    if carries_adapters(network):
        raise Refusal(
            "The network already carries adapters; merge them into it first (pipe.fuse_lora()), or train them further "
            "with base.adapter diffpo.diffusion.WarmLoRA."
        )


def adapters_off(model: nn.Module) -> AbstractContextManager[None]:
    """Inside, every adapter of the model is off; what is trainable stays so.

    Raises:
        Refusal: if the model carries no adapters.
    """
    return switched(adapter_layers(model), {})


def adapter_only(name: str) -> Switch:
    """Inside, the named adapter alone is active; afterwards those are that were. What is trainable stays so."""
    return lambda model: switched(adapter_layers(model), {name: None})


def adapter_layers(model: nn.Module) -> list[Any]:
    """Layers of a model that has to carry adapters."""
    layers = adapted(model)
    if not layers:
        raise Refusal(f"{type(model).__name__} has no adapters to switch; set base.adapter, or use FrozenCopy.")
    return layers


def only_trainable(layers: list[Any], trainable: list[nn.Parameter]) -> None:
    """Undo what peft's switches do to `requires_grad` (they thaw a frozen second adapter)."""
    for layer in layers:
        layer.requires_grad_(False)
    for parameter in trainable:
        parameter.requires_grad_(True)
