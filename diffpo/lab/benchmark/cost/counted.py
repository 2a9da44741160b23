"""Memory of a training step counted without taking it: tensors without numbers, their sizes added up.

The count knows every tensor that PyTorch makes, and no allocator: blocks that are rounded up, fragments and the CUDA
context come on top. It follows a GPU where that differs from the CPU on which it runs: the rules of mixed precision,
and an optimizer that treats all parameters at once.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, no_type_check
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.nn import functional
from torch.optim import AdamW, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from diffpo.lab.benchmark.ways.alone import step_alone
from diffpo.lab.benchmark.ways.case import LR, WEIGHT_DECAY, Case

FOREACH = partial(AdamW, lr=LR, weight_decay=WEIGHT_DECAY, foreach=True)  # torch's own choice on a GPU
FUSED = partial(AdamW, lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
UNCOUNTABLE = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
ITEM = Tensor.item
INITS = ("uniform_", "normal_", "kaiming_uniform_", "xavier_uniform_", "trunc_normal_")
BLOCK, SMALL = 256, 4096  # bitsandbytes: elements that share a scale, and tensors that keep fp32 moments


@dataclass(frozen=True)
class Counted:
    """Bytes of one step after the first.

    Attributes:
        kept: alive between steps: weights, the optimizer's state, the batch.
        peak: alive at most during the step.
    """

    kept: int
    peak: int


class Peak(TorchDispatchMode):
    """Adds up the storages of all tensors that are made while it is on, until they are freed."""

    def __init__(self):
        super().__init__()
        self.alive = self.peak = 0
        self.known = WeakIdKeyDictionary()

    @no_type_check  # called for every operation
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        tree_map_only(Tensor, self._note, out)
        return out

    @no_type_check
    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self.known or tensor.device.type == "meta":
            return
        self.known[storage] = True
        size = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.alive -= size

    def since(self) -> Counted:
        """What was reached since the last call, and what is left of it."""
        found = Counted(self.alive, self.peak)
        self.peak = self.alive
        return found


class EightBit(Optimizer):
    """The memory of 8-bit Adam (arXiv:2110.02861, as in bitsandbytes): two moments of a byte per element and a scale
    per block; it moves no weight."""

    def __init__(self, parameters: Any):
        super().__init__(parameters, {"lr": LR})

    def step(self, closure: Callable | None = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            if parameter not in self.state:
                n = parameter.numel()
                size = 4 * n if n < SMALL else n + 4 * -(-n // BLOCK)
                self.state[parameter]["moments"] = [torch.empty(size, dtype=torch.uint8) for _ in range(2)]


def counted(way: str, case: Case, steps: int = 2) -> Counted:
    """Memory of the last of some steps."""
    peak = Peak()
    readings: list[Counted] = []

    def read() -> float:
        readings.append(peak.since())
        return 0.0

    with without_numbers(), peak:
        step_alone(way, case, steps, read)
    return Counted(readings[-2].kept, readings[-1].peak)


def count_peak(work: Callable[[], object]) -> int:
    """Bytes that a piece of work has alive at most beside what there was before.

    Raises:
        UNCOUNTABLE: if it reads a number, or does something whose size depends on them, e.g. picks tokens by a mask.
    """
    with without_numbers(), patch.object(Tensor, "item", ITEM), Peak() as peak:
        work()
    return peak.peak


class Numberless(FakeTensorMode):
    """The mode that a tensor without numbers holds, and that copies of it share.

    PyTorch would copy the mode with the tensor, and in it weak references to storages as bare addresses: each copy
    gives them back once more, and the heap is corrupted.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> "Numberless":
        return self


@contextmanager
def without_numbers() -> Iterator[None]:
    """Inside, tensors have shapes and sizes, and nothing is computed; norms are in fp32, as autocast has them on a GPU
    but not on a CPU; a number that is read is 1."""
    with ExitStack() as stack:
        stack.enter_context(Numberless(allow_non_fake_inputs=True))
        stack.enter_context(leave_undrawn())
        for name in ("group_norm", "layer_norm"):
            stack.enter_context(patch.object(functional, name, in_fp32(getattr(functional, name))))
        stack.enter_context(patch.object(Tensor, "item", lambda tensor: 1.0))
        # Networks are converted by swapping their weights, which PyTorch refuses if something has a weak reference to
        # one; the mode that makes such tensors has, and does no harm with it.
        stack.enter_context(patch("torch.utils.weakref.getweakrefs", lambda tensor: []))
        yield


@contextmanager
def leave_undrawn() -> Iterator[None]:
    """Inside, new networks do not draw their weights: those without numbers need none."""
    with ExitStack() as stack:
        for name in INITS:
            stack.enter_context(patch.object(nn.init, name, lambda tensor, *_, **__: tensor))
        yield


def in_fp32(norm: Callable) -> Callable:
    def act(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return norm(tensor.float() if torch.is_autocast_enabled("cpu") else tensor, *args, **kwargs)

    return act
