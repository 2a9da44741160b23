"""Memory of tuning a base of the real size, on paper: nothing of it is loaded.

Weights are counted on the meta device, activations by one pair's pass through tensors without numbers, in bf16 with
checkpointing. Computed, not measured: an allocator's fragments, the CUDA context and the VAE come on top.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from diffpo.core.references import store_matrices
from diffpo.diffusion.base.quantize import quantized_layers
from diffpo.diffusion.data.batches import Conditioning
from diffpo.diffusion.model.lora import LoRA
from diffpo.lab.benchmark.cost.counted import Peak, leave_undrawn, without_numbers
from diffpo.lab.benchmark.cost.published_bases import BASES, PublishedBase

GIB = 2**30
RANK = 32
FULL, LORA = "full", "LoRA"
# Bytes of a weight that is quantized: int8 by torchao with a scale for each row (which counts as nothing), nf4 with a
# byte for the scale of 64 weights and a float for 256 of those.
BYTES = {"bf16": 2.0, "int8": 1.0, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256)}


@dataclass(frozen=True)
class Memory:
    """GiB of one way of tuning a base.

    Attributes:
        weights: of the network, and of the adapters.
        gradients: of what is trained, in fp32.
        optimizer: AdamW's two moments, in fp32.
        reference: a second network, where there is one.
        activations: at the peak of one pair's pass.
        encoders: in bf16; pairs that are encoded need none.
    """

    weights: float
    gradients: float
    optimizer: float
    reference: float
    activations: float
    encoders: float

    @property
    def encoded(self) -> float:
        """All that training on encoded pairs needs."""
        return sum(getattr(self, field.name) for field in fields(self)) - self.encoders


def count_ways(base: PublishedBase) -> dict[tuple[str, str], Memory]:
    """Memory by what is trained and how the frozen network is stored."""
    encoders = sum(2 * count_parameters(make_encoder(*encoder)) for encoder in base.encoders)
    network, activations = make_network(base), count_activations(base, lora=True)
    n, tables = count_parameters(network), sum(buffer.nbytes for buffer in network.buffers())
    adapters, found = count_adapters(base, network), dict[tuple[str, str], Memory]()
    for kind in BYTES:
        weights, beside = count_stored(network, kind)
        parts = (weights + 4 * adapters, 4 * adapters, 8 * adapters, 0.0, activations + beside, encoders)
        found[LORA, kind] = Memory(*(part / GIB for part in parts))
    reference, _ = count_stored(network, "bf16")
    parts = (4 * n + tables, 4 * n, 8 * n, reference, count_activations(base, lora=False), encoders)
    return found | {(FULL, "bf16"): Memory(*(part / GIB for part in parts))}


def make_network(base: PublishedBase) -> Any:
    """Without weights."""
    with torch.device("meta"), leave_undrawn():
        return base.family.network(**base.network)


def make_encoder(kind: Any, config: Any) -> nn.Module:
    """Without weights."""
    with torch.device("meta"), leave_undrawn():
        return kind(config)


def count_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def count_published(network: nn.Module) -> int:
    """As publishers count: with tables of places that are saved though they are never trained."""
    return sum(tensor.numel() for tensor in network.state_dict().values())


def count_stored(network: nn.Module, kind: str) -> tuple[float, float]:
    """Bytes of a frozen network, and of what its quantized layers are unpacked to in a pass; its matrices become bf16.

    torchao's layers keep their unpacked weights for the backward pass, so those of the block that is recomputed;
    bitsandbytes' unpack one at a time.
    """
    layers = {} if kind == "bf16" else quantized_layers(network)
    few = {f"{name}.weight": 2.0 * layer.weight.numel() for name, layer in layers.items()}  # type: ignore[reportCallIssue]
    store_matrices(network.requires_grad_(False), torch.bfloat16)
    stored = [p.numel() * (BYTES[kind] if name in few else p.element_size()) for name, p in list_tensors(network)]
    blocks: dict[tuple[str, ...], float] = {}
    for name, size in few.items():
        block = tuple(name.split(".")[:2])
        blocks[block] = blocks.get(block, 0.0) + size
    beside = {"bf16": [0.0], "int8": blocks.values(), "nf4": few.values()}[kind]
    return float(sum(stored)), max(beside)


def list_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and what else is on the device with them."""
    yield from network.named_parameters()
    yield from network.named_buffers()


def count_adapters(base: PublishedBase, network: Any) -> int:
    """Parameters of a LoRA on the family's layers, which are those whose names end so."""
    targets = tuple(f".{target}" for target in base.family.lora_layers(network))
    layers: list[Any] = [layer for name, layer in network.named_modules() if f".{name}".endswith(targets)]
    return sum(RANK * (layer.in_features + layer.out_features) for layer in layers if isinstance(layer, nn.Linear))


def count_activations(base: PublishedBase, lora: bool) -> float:
    """Bytes that one pair's pass has alive at most, beside weights and gradients.

    Checkpointed blocks of one list keep as much as one another, so that networks of a few blocks tell of all; of the
    last list there are so many that the backward pass is fullest where it begins.
    """
    network = make_network(base)
    depths = {name: network.config[name] for name in base.depths}
    few = dict.fromkeys(depths, 2) | ({} if len(depths) == 1 else {base.depths[-1]: 8})
    found = count_pass(base, few, lora)
    deeper = {name: count_pass(base, few | {name: few[name] + 1}, lora) for name in depths}
    return float(
        max(
            first + sum((depths[name] - few[name]) * (more[part] - first) for name, more in deeper.items())
            for part, first in enumerate(found)
        )
    )


def count_pass(base: PublishedBase, depths: dict[str, int], lora: bool) -> tuple[int, int]:
    """As `count_activations`, of a network with so many blocks: in the forward pass, and in the backward pass."""
    with without_numbers(), Peak() as peak:
        network = base.family.network(**base.network | depths).requires_grad_(not lora).train()
        if lora:
            LoRA(rank=RANK).suited(base.family.lora_layers(network)).attach(network)
            store_matrices(network, torch.bfloat16)
        base.family.checkpoint(network)
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        x, told, cond = torch.zeros(2, *base.latents), torch.full((2,), 500.0), tell_prompts(base)
        kept = peak.since().kept
        with torch.autocast("cpu", torch.bfloat16):
            loss = base.family(network, x, told, cond).float().square().mean()
        forward = peak.since().peak
        loss.backward()
        return forward - kept, peak.since().peak - kept


def tell_prompts(base: PublishedBase) -> Conditioning:
    """Of both pictures of a pair."""
    states = {name: torch.zeros(2, *shape, dtype=torch.bfloat16) for name, shape in base.states.items()}
    if base.mask == 1:
        return Conditioning(states | {"mask": torch.tensor([[True]])})
    masks = {"mask": torch.ones(2, base.mask, dtype=torch.bool)} if base.mask else {}
    return Conditioning(states | masks)


def write_table(ways: dict[str, dict[tuple[str, str], Memory]]) -> str:
    """Markdown of counted bases by name."""
    names = ["weights", "gradients", "optimizer", "reference", "activations"]
    head = ["base", "parameters", "trained", "frozen weights", *names, "all", "text encoders"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, found in ways.items():
        size = f"{count_parameters(make_network(BASES[name])) / 1e9:.2f} B"
        for (trained, kind), memory in found.items():
            parts = [f"{getattr(memory, part):.1f}" for part in names]
            sums = [f"{memory.encoded:.1f}", f"{memory.encoders:.1f}"]
            lines.append(f"| {' | '.join([name, size, trained, kind, *parts, *sums])} |")
    return "\n".join(lines)
