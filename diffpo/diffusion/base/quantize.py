"""Frozen networks in few bits, under a LoRA (QLoRA, arXiv:2305.14314) or as text encoders, by the quantization configs
of diffusers and transformers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, get_args

import diffusers
import torch
import transformers
from diffusers import ModelMixin
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from diffpo.core.refusal import Refusal

Kind = Literal["int8", "fp8", "nf4", "llm_int8"]


def quantized_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The linear layers, by name, of a network's lists of blocks, which in a text encoder may lie deeper.

    What stands beside them stays as it is: embeddings of pictures, prompts and times, padding tokens, modulations that
    all blocks share, and the last layer with its norm. Norms and convolutions stay in the blocks, too.
    """
    parts = network.named_children() if isinstance(network, ModelMixin) else network.named_modules()
    lists = [f"{name}." for name, child in parts if isinstance(child, nn.ModuleList)]
    return {name: layer for name, layer in find_linear(network) if name.startswith(tuple(lists))}


def find_linear(network: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    return ((name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear))


@dataclass(frozen=True)
class Quantizing:
    """How a network is quantized while it is loaded.

    Args:
        kind: int8 or fp8 weights by torchao; nf4 (scales quantized, too) or llm_int8 by bitsandbytes.
        compute: type that 4-bit weights are multiplied in, and that the other weights of a text encoder have.
        option: of the base that asks for it, for messages.

    Raises:
        Refusal: if the kind is not known, its package is not installed, or it needs a GPU and there is none.
    """

    kind: Kind
    compute: torch.dtype = torch.float32
    option: str = "quantize"

    def __post_init__(self):
        require_known(self.kind, self.option)
        package = PACKAGES[self.kind]
        if find_spec(package) is None:
            raise Refusal(
                f"base.{self.option} {self.kind} needs {package}, which is not installed; "
                "pip install 'diffpo[quantize]', or set it to null."
            )
        if package == "bitsandbytes" and self.option == "quantize":
            require_gpu(self.kind)

    def config(self, network: nn.Module) -> Any:
        """As its library takes it, diffusers or transformers.

        Args:
            network: as it will be loaded; it needs no weights.
        """
        left_out, shared = list_kept(network), self.shared(network)
        if not isinstance(network, ModelMixin):
            return CONFIGS[self.kind](left_out, self.compute, transformers)
        if PACKAGES[self.kind] == "torchao":
            return CONFIGS[self.kind]([f"{name}.weight" for name in left_out], self.compute, diffusers)
        return CONFIGS[self.kind]([name for name in left_out if name not in shared], self.compute, diffusers)

    def shared(self, network: nn.Module) -> list[str]:
        """Layers that are not to be quantized but have the last name of some that are, as FLUX.1's `proj_out`.

        By bitsandbytes, diffusers leaves all layers of that name or none, so they have to be restored; by torchao it
        tells them apart by the full names of their weights, and transformers does in any case.
        """
        if PACKAGES[self.kind] == "torchao" or not isinstance(network, ModelMixin):
            return []
        last = {name.rpartition(".")[2] for name in quantized_layers(network)}
        return [name for name in list_kept(network) if name in last]


def list_kept(network: nn.Module) -> list[str]:
    """The linear layers that are not quantized."""
    layers = quantized_layers(network)
    return [name for name, _ in find_linear(network) if name not in layers]


@torch.no_grad()
def restore_layers(network: nn.Module, names: list[str], tensors: Mapping[str, Tensor]) -> None:
    """Give layers their weights back, in fp32.

    Args:
        tensors: of the network by name, of which these are read.
    """
    for name in names:
        few: Any = network.get_submodule(name)
        plain = nn.Linear(few.in_features, few.out_features, few.bias is not None, device=few.weight.device)
        for part, weight in plain.named_parameters():
            weight.copy_(tensors[f"{name}.{part}"])
        network.set_submodule(name, plain)


def find_weights(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All weights of a quantized network, in floating point."""
    layers = {f"{name}.weight": layer for name, layer in quantized_layers(network).items()}
    for name, weight in network.named_parameters():
        yield name, dequantize_module_weight(layers[name]) if name in layers else weight


Config = Callable[[list[str], torch.dtype, Any], Any]


def torchao(quantization: str) -> Config:
    """Weights of a byte each."""

    def config(left_out: list[str], compute: torch.dtype, library: Any) -> Any:
        kind = getattr(import_module("torchao.quantization"), quantization)
        return library.TorchAoConfig(kind(), modules_to_not_convert=left_out)

    return config


def four_bits(left_out: list[str], compute: torch.dtype, library: Any) -> Any:
    """Normal floats, whose scales are quantized, too."""
    return library.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=left_out,
    )


def eight_bits(left_out: list[str], compute: torch.dtype, library: Any) -> Any:
    """LLM.int8() (arXiv:2208.07339)."""
    return library.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=left_out)


CONFIGS: dict[str, Config] = {
    "int8": torchao("Int8WeightOnlyConfig"),
    "fp8": torchao("Float8WeightOnlyConfig"),
    "nf4": four_bits,
    "llm_int8": eight_bits,
}
PACKAGES = {"int8": "torchao", "fp8": "torchao", "nf4": "bitsandbytes", "llm_int8": "bitsandbytes"}


def require_known(kind: str, option: str = "quantize") -> None:
    """Raise a Refusal if nothing is quantized so."""
    if kind not in CONFIGS:
        raise Refusal(f"base.{option} is {kind!r}; set it to one of {', '.join(get_args(Kind))}, or to null.")


def require_gpu(kind: str) -> None:
    """Raise a Refusal if diffusers would not quantize by bitsandbytes here."""
    if not torch.cuda.is_available():
        raise Refusal(
            f"base.quantize {kind} needs a GPU: diffusers quantizes by bitsandbytes on no CPU; set it to int8 or null."
        )


@dataclass(frozen=True)
class Storing:
    """In which types the parts of a base are loaded; what is not said is in fp32.

    Args:
        network: of the matrices of a network whose weights stay frozen, see `store_matrices`.
        encoders: of the weights of text encoders.
        quantizing: of the network of a folder; None leaves it.
        quantizing_texts: of its large text encoders; None leaves them.
    """

    network: torch.dtype = torch.float32
    encoders: torch.dtype = torch.float32
    quantizing: Quantizing | None = None
    quantizing_texts: Quantizing | None = None


FULL = Storing()


def cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Give all weights of a network a type, in place.

    Buffers that are no weights keep theirs: rotary frequencies in half precision turn by wrong angles.
    """
    for weight in network.parameters():
        if weight.is_floating_point() and weight.dtype != dtype:
            weight.data = weight.data.to(dtype)
