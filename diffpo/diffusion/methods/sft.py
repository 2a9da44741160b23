"""Supervised fine-tuning on winners: the baseline every preference method has to beat."""

from dataclasses import dataclass, field
from typing import ClassVar

from diffpo.core.draws import Draws
from diffpo.core.needs import Candidates
from diffpo.core.objective import Objective, Requirements, Step
from diffpo.core.references import Reference
from diffpo.diffusion.data.batches import ImageBatch
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.noising import ForwardNoise, Noising
from diffpo.diffusion.objective.preference import Residual, by_timestep, list_answers


@dataclass(frozen=True)
class SFT(Objective):
    """Mean squared denoising error of the chosen side (arXiv:2006.11239, eq. 14); the rejected one is not computed."""

    learns_from: ClassVar[str] = "pictures"
    noising: Noising = field(default_factory=ForwardNoise)

    @property
    def requires(self) -> Requirements:
        return Requirements(Candidates(1), answers=list_answers(self.noising, scores=False))

    def __call__(self, policy: Denoiser, reference: Reference | None, batch: ImageBatch, draws: Draws) -> Step:
        noised = self.noising(policy, reference, batch.best(), draws)
        error = Residual(policy, noised).squared(policy.unet)[0]
        curves = {"mse/policy_chosen": error.detach()}
        return Step((noised.batch.label.weight * error).mean(), curves | by_timestep(curves, noised.t, len(policy.a)))
