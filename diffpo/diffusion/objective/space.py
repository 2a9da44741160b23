"""In which space errors of a denoiser are squared."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.noising import Noised


class Space(ABC):
    """What a network's error is the difference of."""

    @abstractmethod
    def __call__(self, network: Denoiser, noised: Noised) -> Float[Tensor, "k b *picture"]:
        """Predicted minus true, in fp32."""


@dataclass(frozen=True)
class NoiseSpace(Space):
    """The noise, whatever the network predicts, so that beta means the same for epsilon and v-prediction."""

    def __call__(self, network: Denoiser, noised: Noised) -> Float[Tensor, "k b *picture"]:
        return network.eps(noised.x_t, noised.t, noised.batch.cond) - noised.eps


@dataclass(frozen=True)
class OutputSpace(Space):
    """What the network predicts: on a flow path its velocity, as in Flow-DPO (arXiv:2501.13918) with constant beta.

    An error of noise is there (1 - s)^2 times that of velocity, so the same beta is weaker in `NoiseSpace`: 9 times on
    average at the times of Stable Diffusion 3, and hardly anything at the noisiest.
    """

    def __call__(self, network: Denoiser, noised: Noised) -> Float[Tensor, "k b *picture"]:
        a, s = network.signal(noised.t), network.noise(noised.t)
        target = network.prediction.target(noised.batch.latents, noised.eps, a, s)
        return network.out(noised.x_t, noised.t, noised.batch.cond) - target
