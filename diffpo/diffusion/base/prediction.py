"""What networks predict, and how that becomes the noise and the picture."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor


class Prediction(ABC):
    """How a network's output, given x_t = a x_0 + s eps, becomes the noise and the picture."""

    @abstractmethod
    def eps(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor: ...

    @abstractmethod
    def x_0(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor: ...

    @abstractmethod
    def target(self, x_0: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """The output that is right."""


@dataclass(frozen=True)
class Epsilon(Prediction):
    """The output is the noise (arXiv:2006.11239)."""

    def eps(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return out

    def x_0(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return (x_t - s * out) / a

    def target(self, x_0: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return eps


@dataclass(frozen=True)
class Velocity(Prediction):
    """The output is v = a eps - s x_0 with a^2 + s^2 = 1 (arXiv:2202.00512)."""

    def eps(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return a * out + s * x_t

    def x_0(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return a * x_t - s * out

    def target(self, x_0: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return a * eps - s * x_0


@dataclass(frozen=True)
class Flow(Prediction):
    """The output is u = eps - x_0 on the straight path a + s = 1 (rectified flow, arXiv:2209.03003)."""

    def eps(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return x_t + a * out

    def x_0(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return x_t - s * out

    def target(self, x_0: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return eps - x_0
