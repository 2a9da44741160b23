"""Where the noisy latents come from."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.references import Reference
from diffpo.core.refusal import Refusal
from diffpo.diffusion.data.batches import ImageBatch
from diffpo.diffusion.model.denoiser import Denoiser


@dataclass(frozen=True, eq=False)
class Noised:
    """x_t = a(t) x_0 + s(t) eps holds for every Noising; methods differ in which eps.

    Attributes:
        batch: what was noised: the batch that was given, or each of its pairs several times.
    """

    x_t: Float[Tensor, "k b *picture"]
    t: Int[Tensor, " b"]
    eps: Float[Tensor, "k b *picture"]
    batch: ImageBatch


class Times(ABC):
    """Which training timestep each pair is noised to."""

    @abstractmethod
    def __call__(self, timesteps: int, draws: Draws) -> Int[Tensor, " b"]:
        """One time per row, out of a schedule of `timesteps`."""

    def on(self, policy: Denoiser, picture: Sequence[int]) -> "Times":
        """The same times where the base, or the shape of a picture's latents, decides about them."""
        return self

    def met(self, timesteps: int) -> Int[Tensor, " n"]:
        """Every time that may be drawn."""
        return torch.arange(timesteps)


@dataclass(frozen=True)
class Uniform(Times):
    """Every time from `low` up to, not including, `high` is equally likely.

    Args:
        high: null is the end of the schedule.

    Raises:
        Refusal: if no time lies between the two, or some lie outside the schedule.
    """

    low: int = 0
    high: int | None = None

    def __call__(self, timesteps: int, draws: Draws) -> Int[Tensor, " b"]:
        high = timesteps if self.high is None else self.high
        if not 0 <= self.low < high <= timesteps:
            raise Refusal(f"Uniform times need 0 <= low < high <= {timesteps}, got low {self.low}, high {high}.")
        return self.low + draws.integers("timestep", high - self.low)

    def met(self, timesteps: int) -> Int[Tensor, " n"]:
        return torch.arange(timesteps)[self.low : self.high]


@dataclass(frozen=True)
class Among(Times):
    """Only the listed times, equally likely: those that a few-step model knows.

    SD-Turbo and SDXL-Turbo were distilled on 249, 499, 749 and 999 (arXiv:2311.17042); the authors' Diffusion-DPO code
    restricts itself to the same four (github.com/SalesforceAIResearch/DiffusionDPO). At zero terminal SNR the last one
    teaches nothing: both sides of a pair are the same noise there.

    Raises:
        Refusal: if the list is empty, or a time lies outside the schedule.
    """

    times: list[int]

    def __call__(self, timesteps: int, draws: Draws) -> Int[Tensor, " b"]:
        if not self.times or min(self.times) < 0 or max(self.times) >= timesteps:
            raise Refusal(f"Among needs times from 0 to {timesteps - 1}, got {self.times}.")
        return torch.tensor(self.times, device=draws.device)[draws.integers("timestep", len(self.times))]

    def met(self, timesteps: int) -> Int[Tensor, " n"]:
        return torch.tensor([t for t in sorted(set(self.times)) if 0 <= t < timesteps], dtype=torch.long)


@dataclass(frozen=True)
class Skewed(Times):
    """Noisy times are drawn more often: each level of the schedule is `gamma` times as likely as the next noisier one.

    "Rethinking DPO" (arXiv:2505.18736) draws t from a categorical distribution with weights gamma^t, gamma 0.9, and
    does not say over how many levels t runs. Over a thousand, one draw in 40,000 would fall below t = 900, so `levels`
    is 50 here, the sampling steps of the work that it takes the distribution from (arXiv:2402.08265). Inside a level
    the decay goes on: with as many levels as the schedule has times, it is the formula to the letter.

    Raises:
        Refusal: if `gamma` is not in (0, 1) or `levels` is not positive.
    """

    gamma: float = 0.9
    levels: int = 50

    def __post_init__(self):
        if not (0 < self.gamma < 1 and self.levels > 0):
            raise Refusal(f"Skewed needs gamma in (0, 1) and levels > 0, got {self}; Uniform() is gamma 1.")

    def __call__(self, timesteps: int, draws: Draws) -> Int[Tensor, " b"]:
        # Inverse of the distribution function of an exponential that is cut off at the last level.
        decay = math.log(self.gamma) * self.levels
        steps_below_noisiest = timesteps * torch.log1p(draws.uniform("timestep") * math.expm1(decay)) / decay
        return (timesteps - 1 - steps_below_noisiest.long()).clamp(min=0)


@dataclass(frozen=True)
class LogitNormal(Times):
    """The noise s of a flow is the sigmoid of a Gaussian, so that its middle is met most (arXiv:2403.03206, eq. 19).

    diffusers' scripts index a falling table by their draw, so their `logit_mean` is minus this one.

    Raises:
        Refusal: if `std` is not positive and finite, or `mean` not finite.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        if not 0 < self.std < math.inf:
            raise Refusal(f"LogitNormal needs a positive std, got {self.std}; Among([t]) is a single time.")
        if not math.isfinite(self.mean):
            raise Refusal(f"LogitNormal needs a finite mean, got {self.mean}; 0 meets the middle most.")

    def __call__(self, timesteps: int, draws: Draws) -> Int[Tensor, " b"]:
        s = torch.sigmoid(self.mean + self.std * draws.normal("timestep"))
        return (s * timesteps).long().clamp(max=timesteps - 1)


@dataclass(frozen=True)
class Shifted(Times):
    """Times of a flow moved towards noise: s becomes k s / (1 + (k - 1) s) (arXiv:2403.03206, eq. 23).

    Args:
        times: that are moved.
        shift: k; 3 for Stable Diffusion 3, 1 moves nothing. null is what the base's sampler takes for as many tokens
            as pictures of the batch have (FLUX.1, Qwen-Image), by the points that its scheduler's config says.

    Raises:
        Refusal: if `shift` is not positive and finite.
    """

    times: Times = field(default_factory=Uniform)
    shift: float | None = 3.0

    def __post_init__(self):
        if self.shift is not None and not 0 < self.shift < math.inf:
            raise Refusal(f"Shifted needs a positive shift, got {self.shift}; 1 moves nothing.")

    def __call__(self, timesteps: int, draws: Draws) -> Int[Tensor, " b"]:
        return self.moved(self.times(timesteps, draws), timesteps)

    def on(self, policy: Denoiser, picture: Sequence[int]) -> "Shifted":
        shift = policy.shift_of(picture) if self.shift is None else self.shift
        return replace(self, times=self.times.on(policy, picture), shift=shift)

    def met(self, timesteps: int) -> Int[Tensor, " n"]:
        times = self.times.met(timesteps)
        return torch.arange(timesteps) if self.shift is None else self.moved(times, timesteps).unique()

    def moved(self, t: Int[Tensor, " n"], timesteps: int) -> Int[Tensor, " n"]:
        """The nearest of the schedule's noises (t + 1) / timesteps."""
        assert self.shift is not None, "times that a base decides about are asked for by `on`"
        s = (t + 1) / timesteps
        return (timesteps * self.shift * s / (1 + (self.shift - 1) * s)).round().long().clamp(1, timesteps) - 1


class Noising(ABC):
    """Picks one time per pair and the noisy latents of both sides at that time.

    Attributes:
        needs_reference: True if it asks the reference.
    """

    needs_reference: ClassVar[bool] = False

    @property
    def fixed(self) -> str | None:
        """Its settings, if batch and draws alone decide what it makes; None if the policy does."""
        return None

    def met(self, timesteps: int) -> Int[Tensor, " n"]:
        """Every time that a pair may be compared at, out of a schedule of `timesteps`."""
        return torch.arange(timesteps)

    @abstractmethod
    def __call__(self, policy: Denoiser, reference: Reference | None, batch: ImageBatch, draws: Draws) -> Noised: ...


@dataclass(frozen=True)
class ForwardNoise(Noising):
    """Gaussian eps and one time, both shared inside a pair (arXiv:2311.12908; sharing is the code's).

    Args:
        times: which times are drawn.
    """

    times: Times = field(default_factory=Uniform)

    @property
    def fixed(self) -> str:
        return str(self)

    def met(self, timesteps: int) -> Int[Tensor, " n"]:
        return self.times.met(timesteps)

    def __call__(self, policy: Denoiser, reference: Reference | None, batch: ImageBatch, draws: Draws) -> Noised:
        t = self.times.on(policy, batch.latents.shape[2:])(len(policy.a), draws)
        eps = draws.normal("noise", *batch.latents.shape[2:]).expand_as(batch.latents)
        return Noised(policy.noised(batch.latents, eps, t), t, eps, batch)
