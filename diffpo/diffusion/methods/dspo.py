"""DSPO: direct score preference optimization."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective, Requirements, Step, rewards
from diffpo.core.references import Reference
from diffpo.core.refusal import require_at_least
from diffpo.diffusion.data.batches import ImageBatch
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.noising import ForwardNoise, Noising
from diffpo.diffusion.objective.preference import Residual, by_timestep, list_answers, mean_square, squared_errors


@dataclass(frozen=True)
class DSPO(Objective):
    """|eps_theta - eps - beta (1 - sigmoid(z)) (eps_theta - eps_ref)|^2 on winners, mean over latent elements.

    DSPO (ICLR 2025, openreview.net/forum?id=xyfb9HHvMe) as its code trains SD1.5 (github.com/huaishengzhu/DSPO), where
    z = -beta/2 [(m_w - m_l) - (r_w - r_l)] has the same beta: with the published one sigmoid(z) stays near one half,
    and the objective near SFT. As there, 1 - sigmoid(z) is not detached; the loser enters through it alone.

    The code's SDXL branch minimizes something else, which is not reproduced here: with beta of thousands, the mean of
    ((1 - sigmoid(z)) (eps_theta - eps_ref))^2 on winners if the batch mean of (eps_theta - eps_ref)^2 has reached 0.1,
    else (1 - sigmoid(z))^2, neither of which contains the true noise but for z.

    Args:
        beta: 0.001, 0.01 or 0.05 in the code's notes; 0 is SFT.
        noising: which noisy latents the two sides are compared at.

    Raises:
        Refusal: if `beta` is negative.
    """

    learns_from: ClassVar[str] = "pictures"
    beta: float = 0.001
    noising: Noising = field(default_factory=ForwardNoise)

    def __post_init__(self):
        require_at_least(0, **{"DSPO.beta": self.beta})

    @property
    def requires(self) -> Requirements:
        return Requirements(answers=list_answers(self.noising))

    def __call__(self, policy: Denoiser, reference: Reference, batch: ImageBatch, draws: Draws) -> Step:
        noised = self.noising(policy, reference, batch, draws)
        residual, label = Residual(policy, noised), noised.batch.label
        frozen = reference(residual)
        error = residual(policy.unet)
        trained, kept = mean_square(error), mean_square(frozen)
        chosen, rejected = reward = -0.5 * self.beta * (trained - kept)
        z = torch.stack([chosen - rejected, rejected - chosen])
        pull = self.beta * torch.sigmoid(-z).view(*z.shape, *[1] * policy.signature.axes)
        loss = mean_square(error - pull * (error - frozen))
        per_pair: Float[Tensor, " b"] = label.prob * loss[0] + (1 - label.prob) * loss[1]
        curves = rewards(reward) | squared_errors(trained.detach(), kept)
        return Step((label.weight * per_pair).mean(), curves | by_timestep(curves, noised.t, len(policy.a)))
