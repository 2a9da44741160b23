"""LoRA on a causal language model, in the files that peft and transformers load."""

import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.training_utils import cast_training_params
from peft import (
    LoraConfig,
    PeftConfig,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from torch import Tensor, nn

from diffpo.core.refusal import Refusal
from diffpo.core.sharding import whole_state
from diffpo.lora.layers import OUTER, save_for_peft
from diffpo.storage.digests import require_exported
from diffpo.storage.hub import name_failed_loads
from diffpo.storage.whole import match_weights, require_finite, tell_unwrapped, unwrap_name
from diffpo.train.adapters import (
    START,
    TRAINED,
    Adapter,
    LowRank,
    adapter_layers,
    adapter_only,
    only_trainable,
    require_bare,
)

INITS = (True, False, "gaussian", "eva", "orthogonal")  # ways to begin that leave the base as it is


class TextAdapter(Adapter):
    """Adapters of peft's: `adapter_model.safetensors` and `adapter_config.json`."""

    tags: ClassVar[tuple[str, ...]] = ("lora",)

    def save(self, pipeline: Any, folder: Path, writes: bool = True) -> None:
        """Of what `CausalLM.load` gives: its network's adapter."""
        network = pipeline.network
        trained = whole_state(network, [name for name, _ in trained_in(network)])
        if writes:
            layers = get_peft_model_state_dict(
                network, state_dict=trained, adapter_name=TRAINED, save_embedding_layers=False
            )
            save_for_peft(network, layers, TRAINED, folder)

    def load(self, pipeline: Any, folder: Path) -> None:
        inject_saved(pipeline.network, str(folder), TRAINED)
        pipeline.network.requires_grad_(False)

    def snippet(self, where: str) -> list[str]:
        return ["", "from peft import PeftModel", "", f'model = PeftModel.from_pretrained(model, "{where}")']


@dataclass(frozen=True)
class TextLoRA(TextAdapter, LowRank):
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
        inject_adapters(config, network, TRAINED, f"base.adapter ({', '.join(self.targets)})")


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

    def attach(self, network: Any, seed: int = 0) -> None:
        require_bare(network)
        network.requires_grad_(False)
        inject_saved(network, self.path, START, TRAINED)
        for layer in adapter_layers(network):
            layer.set_adapter(TRAINED)
        only_trainable(adapter_layers(network), [p for _, p in trained_in(network)])
        cast_training_params(network)

    def off(self, network: nn.Module) -> AbstractContextManager:
        return adapter_only(START)(network)


# Not by the methods that transformers gives its networks (`load_adapter`, ...): they ask for versions of peft that are
# not out yet.


def trained_in(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """What is trained of its adapters; those of an embedding end in the adapter's name."""
    return [(name, p) for name, p in network.named_parameters() if TRAINED in name.split(".")]


def inject_adapters(config: LoraConfig, network: Any, name: str, asker: str) -> None:
    """Put new adapters into a network in place.

    Args:
        asker: of them, for messages.

    Raises:
        Refusal: if the network has none of the layers that they are for, or layers of a kind that takes none.
    """
    try:
        inject_adapter_in_model(config, network, name)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise Refusal(
            f"{type(network).__name__} cannot take the adapters of {asker}: {reason[:200]}; name other layers, or "
            "adapters of this network."
        ) from error


def inject_saved(network: Any, path: str, *names: str) -> None:
    """Put adapters into a network in place, with the weights that they were saved with.

    Args:
        path: hub id or folder of adapters in peft's files.
        names: that they get in the network, each of them its own copy.

    Raises:
        Refusal: if they cannot be found or read, are not whole or of another network (the first weight is named), or
            train more than low-rank updates, or are not what a run has exported there.
    """
    what = f"a LoRA of this {type(network).__name__}"
    require_exported(Path(path))
    with name_failed_loads(path, what):
        config, weights = read_config(path), load_peft_weights(path, device="cpu")
    require_finite(weights.items(), path, what)
    for name in names:
        inject_adapters(low_rank_alone(config, path), network, name, path)
    state = network.state_dict()
    own = get_peft_model_state_dict(network, state, adapter_name=names[0], save_embedding_layers=False)
    ours = {key: strip_key(key, own) for key in weights}
    if twice := [key for key, n in Counter(ours.values()).items() if n > 1]:
        raise Refusal(f"{path} holds {twice[0]} twice, under two names; take one of them out.")
    found = {ours[key]: tensor for key, tensor in weights.items()}
    # Embeddings that have adapters are in peft's files, too.
    base = {key: x for key, x in network.named_parameters() if key in found and key not in own}
    same = [key for key, x in base.items() if torch.equal(found[key].to(x), x)]
    trained = {key: tensor for key, tensor in found.items() if key not in same}
    # peft translates names of other releases of transformers, so it is asked what did not fit.
    loaded = all([load_fitting(network, trained, name) for name in names])
    if not loaded:
        match_weights(tensor_shapes(found), tensor_shapes(own), path, what, spare=same)
    assert loaded, f"{path} has all names and shapes, and peft did not take them"
    tell_unwrapped([key for key, plain_key in ours.items() if key not in (plain_key, f"{OUTER}{plain_key}")], path)


def load_fitting(network: Any, weights: Mapping[str, Tensor], name: str) -> bool:
    """Load an adapter's weights, and say whether they are those that it has, in names and in shapes."""
    with warnings.catch_warnings(action="ignore"):
        result: Any = set_peft_model_state_dict(network, dict(weights), name, ignore_mismatched_sizes=True)
    return not result.unexpected_keys and not any(name in key.split(".") for key in result.missing_keys)


def read_config(path: str) -> PeftConfig:
    try:
        return PeftConfig.from_pretrained(path)
    except KeyError as error:
        raise Refusal(f"the installed peft knows no adapters of kind {error}; update it, or name a LoRA.") from error


def strip_key(key: str, own: Collection[str]) -> str:
    """A name in a file of adapters without what peft, wrappers and the adapter's name put into it.

    Args:
        own: names in the network, without that of the adapter.
    """
    key = unwrap_name(unwrap_name(key).removeprefix(OUTER))
    layer, found, rest = key.partition(".lora_")
    kind, *parts = rest.split(".")
    shorter = [".".join([f"{layer}{found}{kind}", *kept]) for kept in (parts[1:], [])]
    return next((name for name in (key, *shorter) if name in own), key)


def tensor_shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def low_rank_alone(config: PeftConfig, path: str) -> LoraConfig:
    """The config of adapters that can be switched off layer by layer, and that leave all else as it was.

    Raises:
        Refusal: if they are others.
    """
    beside = "modules_to_save", "trainable_token_indices", "layer_replication"
    if not isinstance(config, LoraConfig):
        raise Refusal(f"{path} holds adapters of kind {config.peft_type}; name a LoRA, or merge it into its base.")
    named = [name for name in beside if vars(config)[name]] + ["bias"] * (config.bias != "none")
    if named:
        raise Refusal(
            f"The LoRA in {path} trains more than low-rank updates ({', '.join(named)}), which the reference cannot "
            "do without; merge it into its base (PeftModel.merge_and_unload) and name the result as base.path."
        )
    if config.init_lora_weights not in INITS:
        raise Refusal(
            f"The LoRA in {path} began as {config.init_lora_weights}, which changes the base's own weights; merge it "
            "into its base (PeftModel.merge_and_unload) and name the result as base.path."
        )
    numbers = {"r": config.r, "lora_alpha": config.lora_alpha, "lora_dropout": config.lora_dropout}
    numbers |= {f"rank_pattern of {layer}": rank for layer, rank in (config.rank_pattern or {}).items()}
    numbers |= {f"alpha_pattern of {layer}": alpha for layer, alpha in (config.alpha_pattern or {}).items()}
    if wrong := [name for name, number in numbers.items() if not isinstance(number, int | float)]:
        raise Refusal(
            f"The LoRA in {path} has {wrong[0]} = {numbers[wrong[0]]!r}, which is no number; write it as one in its "
            "adapter_config.json."
        )
    config.inference_mode = False
    return config
