"""One denoiser for every network: whatever it predicts, `eps` returns the noise."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from diffusers import DDPMScheduler
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.schedules import require_ddpm
from diffpo.diffusion.data.batches import Conditioning


class Prediction(ABC):
    """How a network's output, given x_t = a x_0 + s eps, becomes the noise and the picture."""

    @abstractmethod
    def eps(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor: ...

    @abstractmethod
    def x_0(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Epsilon(Prediction):
    """The output is the noise (arXiv:2006.11239)."""

    def eps(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return out

    def x_0(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return (x_t - s * out) / a


@dataclass(frozen=True)
class Velocity(Prediction):
    """The output is v = a eps - s x_0 with a^2 + s^2 = 1 (arXiv:2202.00512)."""

    def eps(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return a * out + s * x_t

    def x_0(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return a * x_t - s * out


@dataclass(frozen=True)
class Flow(Prediction):
    """The output is u = eps - x_0 on the straight path a + s = 1 (rectified flow, arXiv:2209.03003)."""

    def eps(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return x_t + a * out

    def x_0(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return x_t - s * out


class Signature(ABC):
    """How a network is called.

    Attributes:
        axes: of one picture's latents.
    """

    axes: ClassVar[int]

    @abstractmethod
    def __call__(self, network: nn.Module, x_t: Tensor, t: Int[Tensor, " n"], cond: Conditioning) -> Tensor:
        """The network's output for n noisy pictures."""


@dataclass(frozen=True)
class UNetSignature(Signature):
    """The UNet of Stable Diffusion 1.x, 2.x and XL; latents are (c, h, w)."""

    axes: ClassVar[int] = 3

    def __call__(self, network: nn.Module, x_t: Tensor, t: Int[Tensor, " n"], cond: Conditioning) -> Tensor:
        return network(x_t, t, **cond.kwargs()).sample


@dataclass(frozen=True)
class VideoSignature(Signature):
    """A transformer over frames with learned or sinusoidal positions, as CogVideoX-2B (arXiv:2408.06072); latents are
    (frames, c, h, w)."""

    axes: ClassVar[int] = 4

    def __call__(self, network: nn.Module, x_t: Tensor, t: Int[Tensor, " n"], cond: Conditioning) -> Tensor:
        return network(hidden_states=x_t, timestep=t, **cond.kwargs()).sample


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A network and the path x_t = a(t) x_0 + s(t) eps that it was trained on.

    Attributes:
        a: signal coefficient of each training timestep.
        s: noise coefficient of each training timestep.
    """

    unet: nn.Module
    a: Float[Tensor, " timesteps"]
    s: Float[Tensor, " timesteps"]
    prediction: Prediction
    signature: Signature = UNetSignature()

    @classmethod
    def from_scheduler(cls, unet: nn.Module, scheduler: Any) -> "Denoiser":
        """Read path and prediction off any diffusers scheduler of the DDPM family (zero-terminal-SNR included).

        Raises:
            Refusal: if the scheduler is of no DDPM family, or its `prediction_type` neither "epsilon" nor
                "v_prediction".
        """
        require_ddpm(scheduler)
        predictions = {"epsilon": Epsilon(), "v_prediction": Velocity()}
        kind = scheduler.config.get("prediction_type")
        if kind not in list(predictions):
            raise Refusal(f"The base's scheduler has prediction_type {kind!r}; known are {', '.join(predictions)}.")
        # Without the note of which settings are defaults: those of another class are others.
        settings = {name: value for name, value in scheduler.config.items() if name != "_use_default_values"}
        ddpm: Any = DDPMScheduler.from_config(settings)
        alpha_bar = ddpm.alphas_cumprod
        return cls(unet, alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), predictions[kind])

    def to(self, device: torch.device | str) -> "Denoiser":
        """The path's coefficients on a device; the network stays where it is."""
        return replace(self, a=self.a.to(device), s=self.s.to(device))

    def eps(
        self, x_t: Float[Tensor, "k b *picture"], t: Int[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "k b *picture"]:
        """Predicted noise in fp32, whatever type the network computes in."""
        return self.prediction.eps(self.out(x_t, t, cond), x_t, self.signal(t), self.noise(t))

    def out(
        self, x_t: Float[Tensor, "k b *picture"], t: Int[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "k b *picture"]:
        """What the network says, in fp32."""
        out = self.signature(self.unet, x_t.flatten(0, 1), t.repeat(len(x_t)), cond)
        return out.float().unflatten(0, x_t.shape[:2])

    def noised(
        self, x_0: Float[Tensor, "k b *picture"], eps: Float[Tensor, "k b *picture"], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "k b *picture"]:
        return self.signal(t) * x_0 + self.noise(t) * eps

    def signal(self, t: Int[Tensor, " b"]) -> Float[Tensor, "1 b ..."]:
        return self.a[t].view(1, -1, *[1] * self.signature.axes)

    def noise(self, t: Int[Tensor, " b"]) -> Float[Tensor, "1 b ..."]:
        return self.s[t].view(1, -1, *[1] * self.signature.axes)
