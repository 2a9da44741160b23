"""LoRA on a causal language model, in the files that peft and transformers load."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from diffusers.training_utils import cast_training_params
from torch import nn

from diffpo.adapters import START, TRAINED, Adapter, LoRA, adapter_layers, adapter_only, only_trainable, require_bare
from diffpo.hub import reaching
from diffpo.sharding import whole_state


class TextAdapter(Adapter):
    """Adapters of peft's: `adapter_model.safetensors` and `adapter_config.json`."""

    tags: ClassVar[tuple[str, ...]] = ("lora",)

    def save(self, pipeline: Any, folder: Path, writes: bool = True) -> None:
        """Of what `CausalLM.load` gives: its network's adapter."""
        network = pipeline.network
        trained = whole_state(network, [name for name, p in network.named_parameters() if f".{TRAINED}." in name])
        if writes:
            network.save_pretrained(folder, state_dict=trained)

    def load(self, pipeline: Any, folder: Path) -> None:
        pipeline.network.load_adapter(str(folder))

    def snippet(self, where: str) -> list[str]:
        return [f'model.load_adapter("{where}")']


@dataclass(frozen=True)
class TextLoRA(TextAdapter, LoRA):
    """New adapters that start as zero (arXiv:2106.09685); the reference is the network without them.

    Args:
        targets: names of the layers that get one; the default is every linear layer in a block of Llama, Qwen, Mistral
            and most others.
    """

    rank: int = 16
    targets: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


@dataclass(frozen=True)
class TextWarmLoRA(TextAdapter):
    """Train an existing LoRA further, that of an SFT run, say; the reference is a frozen second copy of it.

    Args:
        path: hub id or folder of a LoRA in peft's files. Rank, alpha and layers are its own.
    """

    path: str

    @property
    def start(self) -> str:
        return self.path

    def attach(self, unet: Any, seed: int = 0) -> None:
        require_bare(unet)
        unet.requires_grad_(False)
        with reaching(self.path, "a LoRA"):
            for name in (START, TRAINED):
                unet.load_adapter(self.path, adapter_name=name, is_trainable=True)
        unet.set_adapter(TRAINED)
        only_trainable(adapter_layers(unet), [p for name, p in unet.named_parameters() if f".{TRAINED}." in name])
        cast_training_params(unet)

    def off(self, unet: nn.Module) -> AbstractContextManager:
        return adapter_only(START)(unet)
