"""LoRA on a causal language model, in the files that peft and transformers load."""

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from diffusers.training_utils import cast_training_params
from peft import (
    LoraConfig,
    PeftConfig,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from safetensors.torch import save_file
from torch import nn

from diffpo.adapters import START, TRAINED, Adapter, LoRA, adapter_layers, adapter_only, only_trainable, require_bare
from diffpo.hub import reaching
from diffpo.refusal import Refusal
from diffpo.sharding import whole_state

OUTER = "base_model.model."  # of names in peft's files: where a network stands in a PeftModel


class TextAdapter(Adapter):
    """Adapters of peft's: `adapter_model.safetensors` and `adapter_config.json`."""

    tags: ClassVar[tuple[str, ...]] = ("lora",)

    def save(self, pipeline: Any, folder: Path, writes: bool = True) -> None:
        """Of what `CausalLM.load` gives: its network's adapter."""
        network = pipeline.network
        trained = whole_state(network, [name for name, p in network.named_parameters() if f".{TRAINED}." in name])
        if writes:
            layers = get_peft_model_state_dict(network, state_dict=trained, adapter_name=TRAINED)
            config = copy.copy(network.peft_config[TRAINED])
            vars(config).update({key: sorted(x) for key, x in vars(config).items() if isinstance(x, set)})
            config.save_pretrained(str(folder))
            weights = {f"{OUTER}{name}": tensor.contiguous() for name, tensor in layers.items()}
            save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})

    def load(self, pipeline: Any, folder: Path) -> None:
        inject_saved(pipeline.network, str(folder), TRAINED)
        pipeline.network.requires_grad_(False)

    def snippet(self, where: str) -> list[str]:
        return ["", "from peft import PeftModel", "", f'model = PeftModel.from_pretrained(model, "{where}")']


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

    def inject(self, network: Any, config: LoraConfig) -> None:
        config.base_model_name_or_path = network.name_or_path
        inject_adapter_in_model(config, network, TRAINED)


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
        for name in (START, TRAINED):
            inject_saved(unet, self.path, name)
        for layer in adapter_layers(unet):
            layer.set_adapter(TRAINED)
        only_trainable(adapter_layers(unet), [p for name, p in unet.named_parameters() if f".{TRAINED}." in name])
        cast_training_params(unet)

    def off(self, unet: nn.Module) -> AbstractContextManager:
        return adapter_only(START)(unet)


# Not by the methods that transformers gives its networks (`load_adapter`, ...): they ask for versions of peft that are
# not out yet.


def inject_saved(network: Any, path: str, name: str) -> None:
    """Put adapters into a network in place, with the weights that they were saved with.

    Args:
        path: hub id or folder of adapters in peft's files.
        name: that they get in the network.

    Raises:
        Refusal: if they cannot be found or read.
    """
    with reaching(path, "a LoRA"):
        config, weights = PeftConfig.from_pretrained(path), load_peft_weights(path, device="cpu")
    require_low_rank_alone(config, path)
    config.inference_mode = False
    inject_adapter_in_model(config, network, name)
    set_peft_model_state_dict(network, {key.removeprefix(OUTER): w for key, w in weights.items()}, name)


def require_low_rank_alone(config: PeftConfig, path: str) -> None:
    """Raise a Refusal if adapters train more than what can be switched off, layer by layer."""
    beside = "modules_to_save", "trainable_token_indices", "layer_replication"
    if not isinstance(config, LoraConfig):
        raise Refusal(f"{path} holds adapters of kind {config.peft_type}; name a LoRA, or merge it into its base.")
    named = [name for name in beside if vars(config)[name]] + ["bias"] * (config.bias != "none")
    if named:
        raise Refusal(
            f"The LoRA in {path} trains more than low-rank updates ({', '.join(named)}), which the reference cannot "
            "do without; merge it into its base (PeftModel.merge_and_unload) and name the result as base.path."
        )
