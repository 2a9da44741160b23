"""What a change can gain at most: the parts of a step, in floating-point operations or in seconds, and their sums."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from diffpo.lab.benchmark.cost.counted import without_numbers
from diffpo.lab.benchmark.ways.case import Case
from diffpo.lab.benchmark.ways.published import OPTIMIZER, POLICY, REFERENCE, TEXT, VAE, published

# Attention on a CPU, which the counter of PyTorch takes for nothing before its release 2.15. Shapes come first.
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
CPU_ATTENTION = {
    ATTENTION: lambda *args, **_: sdpa_flop_count(*args[:3]),
    ATTENTION_BACKWARD: lambda *args, **_: sdpa_backward_flop_count(*args[:4]),
}


@dataclass(frozen=True)
class Costs:
    """Parts of the published way's step on one batch, in whatever unit.

    Attributes:
        vae, text: encoding pictures and prompts.
        reference: the frozen network's forward pass.
        policy: the trained network's forward and backward pass.
        optimizer: clipping and the update.
    """

    vae: float
    text: float
    reference: float
    policy: float
    optimizer: float

    @classmethod
    def of(cls, parts: Mapping[str, float]) -> "Costs":
        """From costs by the names of `Published.parts`."""
        return cls(*(parts[name] for name in (VAE, TEXT, REFERENCE, POLICY, OPTIMIZER)))

    @classmethod
    def medians(cls, seconds: Mapping[str, list[float]]) -> "Costs":
        """From the times that were taken of each part."""
        return cls.of({name: median(taken) for name, taken in seconds.items()})

    @property
    def pixels(self) -> float:
        return self.vae + self.text + self.encoded

    @property
    def encoded(self) -> float:
        """Without VAE and text encoders."""
        return self.reference + self.remembered

    @property
    def remembered(self) -> float:
        """And without a reference."""
        return self.policy + self.optimizer

    def gain_without(self, *parts: str) -> float:
        """How many times as fast the published way is without some of its fields."""
        return self.pixels / replace(self, **dict.fromkeys(parts, 0.0)).pixels


def counted_flops(case: Case) -> Costs:
    """Floating-point operations of matrix products, convolutions and attention; a multiply-add counts as two.

    Networks are those of the published way, checkpointing included, run on tensors without numbers. Elementwise work,
    the optimizer's among it, counts as none.
    """
    with without_numbers():
        parts = published(case, case.sizes.pipeline(case.device)).parts()
        del parts[OPTIMIZER]
        return Costs.of({name: flops_of(part) for name, part in parts.items()} | {OPTIMIZER: 0.0})


def flops_of(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        work()
    return float(counter.get_total_flops())


def matrix_rate(device: torch.device, dtype: torch.dtype, clock: Callable[[], float], side: int) -> float:
    """FLOP per second of the best of some large matrix products: what the device reaches, not what it is sold with."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(10):
        began = clock()
        torch.mm(a, b)
        seconds.append(clock() - began)
    return 2 * side**3 / min(seconds)
