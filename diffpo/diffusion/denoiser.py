"""One denoiser for every network: whatever it predicts, `eps` returns the noise."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import DDPMScheduler
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffpo.core import PairLabels


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What the network sees besides (x_t, t), for both sides of each pair.

    Attributes:
        prompt: text states; the rows differ only if the data have one caption per image.
        pooled: one state per prompt (SDXL), else None.
        time_ids: original size, crop corner and target size of each picture (SDXL), else None.
    """

    prompt: Float[Tensor, "k b l d"]
    pooled: Float[Tensor, "k b p"] | None = None
    time_ids: Float[Tensor, "k b 6"] | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Conditioning":
        """The same conditioning with each tensor changed."""
        present = {name: value for name, value in vars(self).items() if value is not None}
        return Conditioning(**{name: change(value) for name, value in present.items()})

    def exchanged(self) -> "Conditioning":
        """Each side told the text of the other; what SDXL is told of its picture stays."""
        return replace(self, prompt=self.prompt.flip(0), pooled=None if self.pooled is None else self.pooled.flip(0))

    def kwargs(self) -> dict[str, Any]:
        """Arguments of the UNet, the candidates of all pairs in one batch."""
        states = {"encoder_hidden_states": self.prompt.flatten(0, 1)}
        if self.pooled is None or self.time_ids is None:
            return states
        added = {"text_embeds": self.pooled.flatten(0, 1), "time_ids": self.time_ids.flatten(0, 1)}
        return states | {"added_cond_kwargs": added}


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """One encoded batch.

    Attributes:
        latents: scaled as the network expects them.
        row: ids of the rows.
    """

    latents: Float[Tensor, "k b c h w"]
    cond: Conditioning
    label: PairLabels
    row: tuple[int, ...]

    def best(self) -> "ImageBatch":
        """The chosen side alone, k = 1."""
        return replace(self, latents=self.latents[:1], cond=self.cond.map(lambda x: x[:1]))

    def repeated(self, n: int) -> "ImageBatch":
        """All pairs n times, the whole batch again and again."""
        if n == 1:
            return self
        again: Callable[[Tensor], Tensor] = lambda x: torch.cat([x] * n, dim=1)  # noqa: E731
        label = self.label.map(lambda x: torch.cat([x] * n, dim=-1))
        return ImageBatch(again(self.latents), self.cond.map(again), label, self.row * n)


class Prediction(ABC):
    """How a network's output, given x_t = a x_0 + s eps, becomes the noise."""

    @abstractmethod
    def eps(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Epsilon(Prediction):
    """The output is the noise (arXiv:2006.11239)."""

    def eps(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return out


@dataclass(frozen=True)
class Velocity(Prediction):
    """The output is v = a eps - s x_0 with a^2 + s^2 = 1 (arXiv:2202.00512)."""

    def eps(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return a * out + s * x_t


@dataclass(frozen=True)
class Flow(Prediction):
    """The output is u = eps - x_0 on the straight path a + s = 1 (rectified flow, arXiv:2209.03003)."""

    def eps(self, out: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return x_t + a * out


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

    @classmethod
    def from_scheduler(cls, unet: nn.Module, scheduler: Any) -> "Denoiser":
        """Read path and prediction off any diffusers scheduler of the DDPM family (zero-terminal-SNR included).

        Raises:
            ValueError: if the scheduler's `prediction_type` is neither "epsilon" nor "v_prediction".
        """
        predictions = {"epsilon": Epsilon(), "v_prediction": Velocity()}
        kind = scheduler.config.get("prediction_type")
        if kind not in predictions:
            raise ValueError(f"The base's scheduler has prediction_type {kind!r}; known are {', '.join(predictions)}.")
        ddpm: Any = DDPMScheduler.from_config(scheduler.config)
        alpha_bar = ddpm.alphas_cumprod
        return cls(unet, alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), predictions[kind])

    def to(self, device: torch.device | str) -> "Denoiser":
        """The path's coefficients on a device; the network stays where it is."""
        return replace(self, a=self.a.to(device), s=self.s.to(device))

    def eps(
        self, x_t: Float[Tensor, "k b c h w"], t: Int[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "k b c h w"]:
        """Predicted noise in fp32, whatever type the network computes in."""
        return self.prediction.eps(self.out(x_t, t, cond), x_t, self.signal(t), self.noise(t))

    def out(
        self, x_t: Float[Tensor, "k b c h w"], t: Int[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "k b c h w"]:
        """What the network says, in fp32."""
        out = self.unet(x_t.flatten(0, 1), t.repeat(len(x_t)), **cond.kwargs()).sample
        return out.float().unflatten(0, x_t.shape[:2])

    def noised(
        self, x_0: Float[Tensor, "k b c h w"], eps: Float[Tensor, "k b c h w"], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "k b c h w"]:
        return self.signal(t) * x_0 + self.noise(t) * eps

    def signal(self, t: Int[Tensor, " b"]) -> Float[Tensor, "1 b 1 1 1"]:
        return self.a[t].view(1, -1, 1, 1, 1)

    def noise(self, t: Int[Tensor, " b"]) -> Float[Tensor, "1 b 1 1 1"]:
        return self.s[t].view(1, -1, 1, 1, 1)
