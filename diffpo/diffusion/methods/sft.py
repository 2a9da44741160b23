"""Supervised fine-tuning on winners: the baseline every preference method has to beat."""

from dataclasses import dataclass, field

from diffpo.core import Objective, Step
from diffpo.diffusion.denoiser import Conditioning, Denoiser, ImageBatch
from diffpo.diffusion.noising import ForwardNoise, Noising
from diffpo.diffusion.objective import by_timestep, mean_square
from diffpo.draws import Draws


@dataclass(frozen=True)
class SFT(Objective):
    """Mean squared denoising error of the chosen side (arXiv:2006.11239, eq. 14); the rejected one is not computed."""

    noising: Noising = field(default_factory=ForwardNoise)

    @property
    def needs_reference(self) -> bool:
        return False

    def __call__(self, policy: Denoiser, reference: None, batch: ImageBatch, draws: Draws) -> Step:
        winners = ImageBatch(batch.latents[:1], Conditioning(batch.cond.prompt[:1]), batch.label, batch.row)
        noised = self.noising(policy, reference, winners, draws)
        error = mean_square(policy.eps(noised.x_t, noised.t, winners.cond) - noised.eps)[0]
        curves = {"mse/policy_chosen": error.detach()}
        return Step((batch.label.weight * error).mean(), curves | by_timestep(curves, noised.t, len(policy.a)))
