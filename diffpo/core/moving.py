"""What follows training without a gradient: parts of an objective that a checkpoint has to hold."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class Moving(ABC):
    """A part that each optimizer step moves, by what its micro-batches said; equal on all processes."""

    @property
    def curves(self) -> dict[str, Float[Tensor, ""]]:
        """Numbers of the step that is made, for the log."""
        return {}

    @abstractmethod
    def after_step(self, add: Callable[[Tensor], Any]) -> None:
        """Called by `fit` on every process after each optimizer step.

        Args:
            add: sums a tensor over all processes, which have to call it together.
        """

    @abstractmethod
    def forget(self) -> None:
        """The step was skipped: what its micro-batches said does not count."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class RunningMean(Moving):
    """Exponential mean over optimizer steps of the mean of a number; the first step begins it.

    Attributes:
        value: None before the first step.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.value: Tensor | None = None
        self._heard: Tensor | None = None

    def hear(self, values: Float[Tensor, " b"]) -> None:
        """Numbers of a micro-batch; nothing leaves the device."""
        said = torch.stack([values.detach().float().sum(), values.new_tensor(len(values), dtype=torch.float32)])
        self._heard = said if self._heard is None else self._heard + said

    def after_step(self, add: Callable[[Tensor], Any]) -> None:
        assert self._heard is not None, "a step has heard nothing"
        total, count = add(self._heard)
        mean = total / count
        before = mean if self.value is None else self.value.to(mean.device)
        self.value, self._heard = before.lerp(mean, 1 - self.decay), None

    def forget(self) -> None:
        self._heard = None

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


class MovingParts:
    """All of an objective, as one thing that a checkpoint holds."""

    def __init__(self, parts: Sequence[Moving]):
        self.parts = parts

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, stored in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(stored)
