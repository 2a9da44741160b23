"""Each change to the step switched on alone, with what the arithmetic predicts and what is measured."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffpo.lab.benchmark.cost.arithmetic import Costs, flops_of
from diffpo.lab.benchmark.cost.counted import without_numbers
from diffpo.lab.benchmark.ways.case import Case
from diffpo.lab.benchmark.ways.published import OPTIMIZER, PUBLISHED, Published, published
from diffpo.lab.benchmark.ways.turns import Clock, in_turn, ratio

Seconds = Mapping[str, list[float]]
FUSED_OPTIMIZER = "fused optimizer, alone"


@dataclass(frozen=True, eq=False)
class Change:
    """One row of the table.

    Attributes:
        step: a micro-batch of the published way with the change, or, if `undone`, without it where that way has it.
        by_flops: the gain by floating-point operations.
        by_time: the gain by the parts' own times.
        why: where the measured gain differs from these, in a line.
    """

    name: str
    step: Callable[[], object]
    by_flops: float
    by_time: Callable[[Seconds], float]
    why: str
    undone: bool = False

    def gain(self, seconds: Seconds) -> float:
        pair = seconds[self.name], seconds[PUBLISHED]
        return ratio(*pair) if self.undone else ratio(*reversed(pair))


def list_left_out(step: Published, flops: Costs) -> list[Change]:
    """Work that is done once for all epochs instead of at each visit: its result is put in its place."""
    pixels, tokens, noisy, t = step.example()
    with torch.no_grad():
        latents, states = step.encoded(pixels), step.conditioning(tokens)
        predicted = step.frozen(noisy, t, *states)

    def without(name: str, method: str, result: object, field: str, why: str) -> Change:
        def act() -> None:
            with replaced(step, method, lambda *inputs: result):
                step()

        by_time: Callable[[Seconds], float] = lambda seconds: Costs.medians(seconds).gain_without(field)  # noqa: E731
        return Change(name, act, flops.gain_without(field), by_time, why)

    return [
        without("latents from files", "encoded", latents, "vae", "convolutions on large pictures run at another rate"),
        without("text states from files", "conditioning", states, "text", "a percent: noise is as large"),
        without(
            "reference errors remembered",
            "frozen",
            predicted,
            "reference",
            "a forward pass alone runs at another rate than one whose activations are kept",
        ),
    ]


def without_work_saved(step: Published) -> list[Change]:
    """Changes that leave the products the same and do them in another way."""

    def per_side() -> None:
        whole = step.policy

        def halves(noisy: Tensor, t: Tensor, states: Tensor, added: dict[str, Tensor] | None) -> Tensor:
            split = {name: value.chunk(2) for name, value in (added or {}).items()}
            sides = zip(noisy.chunk(2), t.chunk(2), states.chunk(2), strict=True)
            extra = [{name: values[i] for name, values in split.items()} or None for i in range(2)]
            return torch.cat([whole(*side, more) for side, more in zip(sides, extra, strict=True)])

        with replaced(step, "policy", halves):
            step()

    def plain_attention() -> None:
        with sdpa_kernel(SDPBackend.MATH):
            step()

    def nothing_read() -> None:
        with replaced(step, "read", lambda *numbers: None):
            step()

    same: Callable[[Seconds], float] = lambda seconds: 1.0  # noqa: E731
    why_sides = "half the batch per kernel: a device that is full with one side gains nothing"
    why_attention = "the scores of all pairs of places are not written to memory"
    return [
        Change("one policy pass for both sides", per_side, 1.0, same, why_sides, undone=True),
        Change("attention in one kernel", plain_attention, 1.0, same, why_attention, undone=True),
        Change("nothing read back", nothing_read, 1.0, same, "a CPU has nothing to wait for"),
    ]


def by_another_network(case: Case, fused: Callable[[Any], torch.optim.Optimizer]) -> tuple[list[Change], Published]:
    """Changes that need a network or optimizer of their own, and the one whose optimizer is fused."""
    ordered = published(case, case.sizes.pipeline(case.device))
    ordered.unet.to(memory_format=torch.channels_last)
    quick = published(replace(case, optimizer=fused), case.sizes.pipeline(case.device))

    def by_fused_time(seconds: Seconds) -> float:
        costs = Costs.medians(seconds)
        return costs.pixels / replace(costs, optimizer=median(seconds[FUSED_OPTIMIZER])).pixels

    why_order = "the order that tensor cores want; a CPU's kernels bring tensors into their own order anyway"
    changes = [
        Change("channels last", ordered, 1.0, lambda seconds: 1.0, why_order),
        Change("fused optimizer", quick, 1.0, by_fused_time, "one pass over weights, gradients and moments"),
    ]
    if case.lora:
        changes.append(frozen_weights(case))
    return changes, quick


def frozen_weights(case: Case) -> Change:
    """Against adapters in a network whose own weights get gradients that nobody uses."""
    wasteful = published(case, case.sizes.pipeline(case.device))
    wasteful.unet.requires_grad_(True)

    def step() -> None:
        wasteful()
        for parameter in wasteful.unet.parameters():
            parameter.grad = None

    def flops(everything: bool) -> float:
        counted = published(case, case.sizes.pipeline(case.device))
        if everything:
            counted.unet.requires_grad_(True)
        return sum(flops_of(part) for name, part in counted.parts().items() if name != OPTIMIZER)

    with without_numbers():
        by_flops = flops(everything=True) / flops(everything=False)
    why = "these products are the backward pass's other half; large ones run faster than the average"
    return Change("no gradients of frozen weights", step, by_flops, lambda seconds: by_flops, why, undone=True)


def compiled(case: Case) -> Change:
    """Transformer blocks compiled; the first step takes minutes."""
    step = published(case, case.sizes.pipeline(case.device))
    step.unet.compile_repeated_blocks()
    return Change("compiled blocks", step, 1.0, lambda seconds: 1.0, "elementwise work between products is fused")


@contextmanager
def replaced(owner: object, method: str, function: Callable) -> Iterator[None]:
    """Inside, an object does something else when a method of it is called."""
    setattr(owner, method, function)
    try:
        yield
    finally:
        delattr(owner, method)


def measured_changes(
    case: Case, flops: Costs, steps: int, warmup: int, clock: Clock, compile_too: bool
) -> tuple[list[Change], dict[str, list[float]]]:
    """All changes and the seconds of their steps, of the published way's and of its parts."""
    base = published(case, case.sizes.pipeline(case.device))
    fused = partial(torch.optim.AdamW, lr=1e-6, weight_decay=1e-2, fused=True)
    others, quick = by_another_network(case, fused)
    changes = (
        list_left_out(base, flops) + without_work_saved(base) + others + ([compiled(case)] if compile_too else [])
    )

    def fused_update() -> None:
        for parameter in quick.parameters:
            parameter.grad = torch.ones_like(parameter)

    names = {PUBLISHED: base, **{change.name: change.step for change in changes}, **base.parts()}
    names |= {"gradients": fused_update, FUSED_OPTIMIZER: quick.update}
    seconds = in_turn(names, warmup + steps, clock)
    return changes, {name: taken[warmup:] for name, taken in seconds.items()}
