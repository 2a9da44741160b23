"""LoRA of image networks as files: what diffusers loads, and what a run starts from."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from torch import nn

from diffpo.core.refusal import Refusal
from diffpo.lora.files import read_lora
from diffpo.lora.layers import put
from diffpo.train.adapters import (
    START,
    TRAINED,
    LowRank,
    adapter_layers,
    adapter_only,
    adapters_off,
    linear_layers,
    only_trainable,
    require_bare,
)


@dataclass(frozen=True)
class LoRA(LowRank):
    """New adapters that start as zero (arXiv:2106.09685); the reference is the network without them.

    Args:
        rank: of each update.
        alpha: updates are scaled by alpha / rank; null is alpha = rank.
        targets: names of the layers that get one; the default is the attention of diffusers' own DPO scripts.
        dropout: on the input of the updates.

    Raises:
        Refusal: if rank or alpha are not positive, or there are no targets.
    """

    rank: int = 8
    alpha: float | None = None
    targets: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])
    dropout: float = 0.0

    def __post_init__(self):
        if self.rank < 1:
            raise Refusal(f"LoRA needs a rank of at least 1, got {self.rank}.")
        if self.alpha is not None and not self.alpha > 0:
            raise Refusal(f"LoRA needs an alpha above 0 to add anything, got {self.alpha}; null is alpha = rank.")
        if not self.targets:
            raise Refusal(
                "LoRA needs the names of layers in base.adapter.targets, got none; leave it out for attention."
            )

    def attach(self, unet: Any, seed: int = 0) -> None:
        require_bare(unet)
        names = [name for name, _ in unet.named_modules()]
        for target in self.targets:
            if not any(f".{name}".endswith(f".{target}") for name in names):
                raise Refusal(
                    f"{type(unet).__name__} has no layer {target!r}; name others in base.adapter.targets, its linear "
                    f"layers are {', '.join(linear_layers(unet))}."
                )
        unet.requires_grad_(False)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.rank if self.alpha is None else self.alpha,  # type: ignore[arg-type]
            target_modules=self.targets,
            lora_dropout=self.dropout,
            init_lora_weights="gaussian",
        )
        with torch.random.fork_rng(devices=[]):  # peft draws on the CPU
            torch.default_generator.manual_seed(seed)
            self.inject(unet, config)
        cast_training_params(unet, dtype=torch.float32)

    def inject(self, network: Any, config: LoraConfig) -> None:
        """By diffusers' own hook, so that its other ones (`disable_adapters`) know of the adapters."""
        try:
            network.add_adapter(config, adapter_name=TRAINED)
        except ValueError as error:
            raise Refusal(
                f"peft has no LoRA for {', '.join(self.targets)} with dropout {self.dropout:g} "
                f"({' '.join(str(error).split())[:150]}); name others in base.adapter.targets, the linear layers are "
                f"{', '.join(linear_layers(network))}."
            ) from error

    def off(self, unet: nn.Module) -> AbstractContextManager:
        return adapters_off(unet)


@dataclass(frozen=True)
class WarmLoRA(LowRank):
    """Train an existing LoRA further; the reference is a frozen second copy of it, "ref", in the same network.

    Args:
        path: hub id, folder or file of a UNet's LoRA, as diffusers, peft, kohya or ComfyUI write it. Ranks, alphas,
            layers and dropout are its own, and so are the magnitudes of a DoRA.
    """

    path: str

    @property
    def start(self) -> str:
        return self.path

    def attach(self, unet: Any, seed: int = 0) -> None:
        require_bare(unet)
        file = read_lora(self.path, {"unet": unet})
        if file.others:
            raise Refusal(
                f"{file.beside}; only a UNet is trained. Merge it all into the base and train a new LoRA there "
                "(pipe.load_lora_weights, fuse_lora, unload_lora_weights, save_pretrained), or save the UNet's part "
                "alone with save_lora_weights(folder, unet_lora_layers=...)."
            )
        unet.requires_grad_(False)
        put(unet, file.layers, START)
        put(unet, file.layers, TRAINED, file.dropout)
        unet.set_adapter(TRAINED)
        only_trainable(adapter_layers(unet), [p for name, p in unet.named_parameters() if f".{TRAINED}." in name])
        cast_training_params(unet, dtype=torch.float32)

    def off(self, unet: nn.Module) -> AbstractContextManager:
        return adapter_only(START)(unet)
