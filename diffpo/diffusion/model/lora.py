"""LoRA of image networks as files: what diffusers loads, and what a run starts from."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import nn

from diffpo.core.refusal import Refusal
from diffpo.core.sharding import whole_state
from diffpo.diffusion.base.family import Family
from diffpo.diffusion.model.pipeline import family_of, list_absent
from diffpo.lora.files import FILES, PICKLED, locate_lora, read_lora
from diffpo.lora.layers import loads_loras, put_layers, require_put, save_for_peft
from diffpo.storage.files import sort_metadata
from diffpo.storage.tensors import read_header
from diffpo.train.adapters import (
    START,
    TRAINED,
    Adapter,
    LowRank,
    adapter_layers,
    adapter_only,
    linear_layers,
    only_trainable,
    require_bare,
)

ENCODERS = "text_encoders"  # in the header of a file, of bases that may come without some

log = logging.getLogger(__name__)


def note_encoders(file: Path, pipeline: Any) -> None:
    """Write into a LoRA's header which text encoders it was trained with, of a base that may lack some."""
    family = family_of(pipeline)
    if family.optional:
        there = sorted(name for name in family.encoders if name.startswith("text_encoder"))
        told = " ".join(name for name in there if name not in list_absent(pipeline))
        save_file(load_file(file), file, read_header(file) | {ENCODERS: told})


def tell_encoders(path: str, pipeline: Any, base: str | None = None) -> None:
    """Warn, in one line, of text encoders that a LoRA was trained with and a pipeline lacks.

    Args:
        base: name of the pipeline, for the message.
    """
    if not family_of(pipeline).optional or (file := locate_lora(path)).suffix in PICKLED:
        return
    if lacking := sorted(set(read_header(file).get(ENCODERS, "").split()) & list_absent(pipeline)):
        log.warning(
            f"{path} was trained with {', '.join(lacking)}, which {base or 'this base'} lacks, so its network hears "
            "less than in training; name a base with it."
        )


class PipelineAdapter(Adapter):
    """Adapters of peft's, saved as plain diffusers loads them: `pytorch_lora_weights.safetensors`.

    Of a network that diffusers loads none for (PixArt's), as peft does.
    """

    tags: ClassVar[tuple[str, ...]] = ("lora", "template:diffusion-lora")

    def save(self, pipeline: Any, folder: Path, writes: bool = True) -> None:
        """Write peft's names for all layers: of a file with some of diffusers' own names only those are loaded."""
        part = family_of(pipeline).part
        network = pipeline.components[part]
        trained = whole_state(network, [name for name, p in network.named_parameters() if p.requires_grad])
        if writes:
            layers = get_peft_model_state_dict(network, state_dict=trained, adapter_name=TRAINED)
            if not loads_loras(type(network)):
                save_for_peft(network, layers, TRAINED, folder)
                return
            adapter = network.peft_config[TRAINED]
            metadata = adapter.to_dict() | {"target_modules": sorted(adapter.target_modules)}  # a set, in any order
            named = {f"{part}_lora_layers": layers, f"{part}_lora_adapter_metadata": metadata}
            type(pipeline).save_lora_weights(folder, **named)
            note_encoders(folder / FILES[0], pipeline)
            sort_metadata(folder / FILES[0])

    def load(self, pipeline: Any, folder: Path) -> None:
        """As any user would, and see that every layer of the file is there.

        Raises:
            RuntimeError: if one is not.
        """
        part = family_of(pipeline).part
        network = pipeline.components[part]
        file = read_lora(str(folder), {part: network})
        if not loads_loras(type(network)):
            put_layers(network, file.layers, TRAINED)
            return
        tell_encoders(str(folder), pipeline)
        pipeline.load_lora_weights(str(folder), adapter_name=TRAINED)
        require_put(network, file.layers, TRAINED)

    def snippet(self, where: str) -> list[str]:
        return [f'pipe.load_lora_weights("{where}")']


@dataclass(frozen=True)
class LoRA(PipelineAdapter, LowRank):
    """New adapters that start as zero (arXiv:2106.09685); the reference is the network without them.

    Args:
        targets: names of the layers that get one; null takes those of the base's family, which are attention's of
            diffusers' own scripts.
    """

    reads_base: ClassVar[bool] = False
    targets: list[str] | None = None

    def suited(self, targets: Sequence[str]) -> "LoRA":
        return self if self.targets is not None else replace(self, targets=list(targets))

    def attach(self, network: Any, seed: int = 0) -> None:
        if self.targets is None:
            self.suited(Family.targets).attach(network, seed)
        else:
            super().attach(network, seed)

    def inject(self, network: Any, config: LoraConfig) -> None:
        """By diffusers' own hook, if there is one: its other ones (`disable_adapters`) then know of the adapters."""
        try:
            if loads_loras(type(network)):
                network.add_adapter(config, adapter_name=TRAINED)
            else:
                inject_adapter_in_model(config, network, TRAINED)
        except ValueError as error:
            raise Refusal(
                f"peft has no LoRA for {', '.join(self.targets or ())} with dropout {self.dropout:g} "
                f"({' '.join(str(error).split())[:150]}); name others in base.adapter.targets, the linear layers are "
                f"{', '.join(linear_layers(network))}."
            ) from error


@dataclass(frozen=True)
class WarmLoRA(PipelineAdapter):
    """Train an existing LoRA further; the reference is a frozen second copy of it, "ref", in the same network.

    Args:
        path: hub id, folder or file of a network's LoRA, as diffusers, peft, kohya or ComfyUI write it. Ranks, alphas,
            layers and dropout are its own, and so are the magnitudes of a DoRA.
    """

    path: str

    @property
    def start(self) -> str:
        return self.path

    def tell_untold(self, pipeline: Any, base: str) -> None:
        tell_encoders(self.path, pipeline, base)

    def attach(self, network: Any, seed: int = 0) -> None:
        require_bare(network)
        part = "unet" if isinstance(network, UNet2DConditionModel) else "transformer"
        file = read_lora(self.path, {part: network})
        if file.others:
            raise Refusal(
                f"{file.beside}; only a {part} is trained. Merge it all into the base and train a new LoRA there "
                "(pipe.load_lora_weights, fuse_lora, unload_lora_weights, save_pretrained), or save that of the "
                f"{part} alone with save_lora_weights(folder, {part}_lora_layers=...)."
            )
        network.requires_grad_(False)
        put_layers(network, file.layers, START)
        put_layers(network, file.layers, TRAINED, file.dropout)
        layers = adapter_layers(network)
        for layer in layers:
            layer.set_adapter(TRAINED)
        only_trainable(layers, [p for name, p in network.named_parameters() if f".{TRAINED}." in name])
        cast_training_params(network, dtype=torch.float32)

    def off(self, network: nn.Module) -> AbstractContextManager:
        return adapter_only(START)(network)
