"""Where the noisy latents come from."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from diffpo.diffusion.denoiser import Denoiser, ImageBatch
from diffpo.draws import Draws
from diffpo.references import Reference


@dataclass(frozen=True, eq=False)
class Noised:
    """x_t = a(t) x_0 + s(t) eps holds for every Noising; methods differ in which eps."""

    x_t: Float[Tensor, "k b c h w"]
    t: Int[Tensor, " b"]
    eps: Float[Tensor, "k b c h w"]


class Noising(ABC):
    """Picks one time per pair and the noisy latents of both sides at that time."""

    @abstractmethod
    def __call__(self, policy: Denoiser, reference: Reference | None, batch: ImageBatch, draws: Draws) -> Noised: ...


@dataclass(frozen=True)
class ForwardNoise(Noising):
    """Uniform t and Gaussian eps, both shared inside a pair (arXiv:2311.12908; sharing is the code's)."""

    def __call__(self, policy: Denoiser, reference: Reference | None, batch: ImageBatch, draws: Draws) -> Noised:
        t = draws.integers("timestep", len(policy.a))
        eps = draws.normal("noise", *batch.latents.shape[2:]).expand_as(batch.latents)
        return Noised(policy.noised(batch.latents, eps, t), t, eps)
