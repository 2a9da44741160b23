"""Memory of our ways and of the published one on paper: what is removed, and what is left."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from diffpo.lab.benchmark.cost.counted import FOREACH, FUSED, EightBit, counted, without_numbers
from diffpo.lab.benchmark.cost.resident import fits
from diffpo.lab.benchmark.ways.case import ADAFACTOR, Case
from diffpo.lab.benchmark.ways.ours import ENCODED, REMEMBERED
from diffpo.lab.benchmark.ways.published import PUBLISHED, published
from diffpo.lab.benchmark.ways.shapes import SHAPES

HOST = torch.device("cpu")
CARD, CONTEXT = 24.0, 1.0  # GiB of a card, and of what CUDA itself takes of it
GIB = 2**30


@dataclass(frozen=True)
class MemoryRow:
    """GiB of one way of training at its peak, all of it computed.

    Attributes:
        expected: the published way's peak without the frozen networks that this way does without.
    """

    options: str
    way: str
    kept: float
    peak: float
    expected: float


@dataclass(frozen=True)
class Frozen:
    """GiB of the networks that the published way does not train."""

    encoders: float
    reference: float


def options(shape: str) -> dict[str, Case]:
    """Full fine-tuning and adapters, with and without what saves memory, in bf16."""
    full = Case(shape, False, 1, FOREACH, bf16=True)
    saving, adapters = replace(full, checkpointing=True), replace(full, lora=True)
    saving_adapters = replace(saving, lora=True)
    cases = {
        "full, checkpointing, 8-bit Adam": replace(saving, optimizer=EightBit),
        "LoRA, checkpointing": saving_adapters,
        "LoRA, checkpointing, 8-bit Adam": replace(saving_adapters, optimizer=EightBit),
        "LoRA, checkpointing, one side at a time": replace(saving_adapters, one_side_at_a_time=True),
    }
    if SHAPES[shape].is_xl:  # without checkpointing or with Adam's moments in fp32 it is beyond what anybody runs
        return {"full, checkpointing, Adafactor": replace(saving, optimizer=ADAFACTOR)} | cases
    fused = {"full, checkpointing, fused AdamW": replace(saving, optimizer=FUSED)}
    return {"full": full, "full, checkpointing": saving} | fused | {"LoRA": adapters} | cases


def rows(shape: str) -> Iterator[MemoryRow]:
    """The published way, ours from encoded pairs, and ours with remembered reference errors.

    One side at a time is ours alone; what is expected of it is what both sides need.
    """
    for name, case in options(shape).items():
        theirs, frozen = counted(PUBLISHED, case), frozen_networks(case)
        offloads = SHAPES[shape].is_xl and not case.lora
        gone = frozen.encoders + frozen.reference if offloads else 0.0
        bare = theirs.peak / GIB - frozen.encoders - frozen.reference
        peak = theirs.peak / GIB - gone
        if not case.one_side_at_a_time:
            yield MemoryRow(name, PUBLISHED, theirs.kept / GIB - gone, peak, peak)
        for way, kept in ((ENCODED, frozen.reference), (REMEMBERED, 0.0)):
            if way == ENCODED or not case.lora:
                ours = counted(way, case)
                yield MemoryRow(name, way, ours.kept / GIB, ours.peak / GIB, bare + kept)


def frozen_networks(case: Case) -> Frozen:

    with without_numbers():
        theirs = published(case, case.sizes.pipeline(case.device))
        reference = 0.0 if case.lora else gib(theirs.reference)
        return Frozen(sum(gib(part) for part in (theirs.vae, *theirs.encoders)), reference)


def gib(part: nn.Module) -> float:
    return sum(p.numel() * p.element_size() for p in part.parameters()) / GIB


def largest(suits: Callable[[int], bool]) -> int:
    """The largest batch that fits, 0 if none does."""
    low, high = 0, 1
    while suits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if suits(middle) else (low, middle)
    return low


def largest_counted(way: str, case: Case) -> int:
    """Pairs per pass in a card's memory, computed."""
    return largest(lambda pairs: counted(way, replace(case, pairs=pairs)).peak <= (CARD - CONTEXT) * GIB)


def largest_measured(way: str, case: Case) -> int:
    """Pairs per pass in as much of a GPU as a card has, tried."""
    return largest(lambda pairs: fits(way, replace(case, pairs=pairs), CARD))
