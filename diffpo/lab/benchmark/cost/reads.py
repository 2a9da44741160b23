"""Where a step waits for the device: every place where Python asks a tensor for its numbers."""

import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, no_type_check

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

PACKAGE = Path(__file__).parents[3]
aten = torch.ops.aten
# A number is fetched, or the shape of the result depends on numbers.
WAITING_OPERATORS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.repeat_interleave.Tensor,
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}  # waits if an index is boolean
WAITING_METHODS = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.cpu}
MADE = {torch.tensor, torch.as_tensor}
TORCH = Path(torch.__file__).parent
OPTIMIZERS = TORCH / "optim"  # their counts of steps are in host memory on a GPU too


@dataclass(frozen=True)
class Reads:
    """Places by how often they were met.

    Attributes:
        waits: a number is read back, so everything that was queued has to finish first.
        uploads: a tensor is made of Python numbers, or moved; from pinned memory nothing waits for it.
    """

    waits: Counter[str] = field(default_factory=Counter)
    uploads: Counter[str] = field(default_factory=Counter)

    def forget(self) -> None:
        self.waits.clear()
        self.uploads.clear()


@contextmanager
def reads() -> Iterator[Reads]:
    """Count on a CPU what would be transfers on a GPU."""
    found = Reads()
    with Operators(found), Methods(found):
        yield found


class Operators(TorchDispatchMode):
    def __init__(self, found: Reads):
        super().__init__()
        self.found = found

    @no_type_check  # called for every operation
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITING_OPERATORS or (func in INDEXING and any(is_boolean(index) for index in args[1])):
            note(self.found.waits, str(func))
        return func(*args, **kwargs or {})


class Methods(TorchFunctionMode):
    def __init__(self, found: Reads):
        self.found = found

    @no_type_check  # called for every operation
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITING_METHODS:
            note(self.found.waits, func.__name__)
        elif func in MADE or (func is Tensor.to and names_device(args, kwargs) and not called_by_torch()):
            note(self.found.uploads, func.__name__)
        return func(*args, **kwargs or {})


def is_boolean(index: Tensor | None) -> bool:
    return index is not None and index.dtype == torch.bool


def names_device(args: Any, kwargs: Any) -> bool:
    return any(isinstance(value, torch.device) for value in (*args, *(kwargs or {}).values()))


def note(places: Counter[str], what: str) -> None:
    """Count the innermost line of ours that led here, or if there is none, of anybody who is not installed."""
    stack = [(Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_stack(sys._getframe(2))]
    files = [(path, line) for path, line in stack if path != Path(__file__)]
    if any(OPTIMIZERS in path.parents for path, _ in files):
        return
    ours = [(path, line) for path, line in files if PACKAGE in path.parents]
    others = [(path, line) for path, line in files if TORCH.parent not in path.parents]
    path, line = (ours or others)[0]
    places[f"{path.relative_to(PACKAGE) if ours else path.name}:{line} {what}"] += 1


def called_by_torch() -> bool:
    """Whether the call that a mode was asked about came from PyTorch itself."""
    return TORCH in Path(sys._getframe(2).f_code.co_filename).parents


def reads_of(work: Callable[[], object]) -> Reads:
    with reads() as found:
        work()
    return found
