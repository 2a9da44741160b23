"""Diffusion-KTO: likes and dislikes of single pictures."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.needs import Candidates
from diffpo.core.objective import Objective, Requirements, Step, rewards
from diffpo.core.references import Reference
from diffpo.core.refusal import require_positive
from diffpo.diffusion.data.batches import ImageBatch
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.noising import ForwardNoise, Noising
from diffpo.diffusion.objective.preference import (
    Residual,
    by_timestep,
    list_answers,
    mean_over_processes,
    squared_errors,
)

ABOUT_PAIRS = {"rewards/margins", "rewards/accuracies"}


@dataclass(frozen=True)
class KTO(Objective):
    """w_y (1 - sigmoid(y beta [(r - m) - KL])) with y = 1 for liked pictures, -1 for others (arXiv:2404.04465).

    As in the authors' code (github.com/jacklishufan/diffusion-kto): no one half, so a beta of 1000 weighs like 2000 in
    Diffusion-DPO, and KL = max(0, mean of r - m) without gradient over the micro-batch of all processes, which makes
    the loss depend on how many pictures that is. Unlike there, the two pictures of a pair share noise and time.

    A pair is one liked and one disliked picture. Single pictures (k = 1) are liked with `label.prob`, 1 or 0.

    Args:
        desirable: weight of liked pictures. Drawing 80 % likes, as the code does, is 1.6 and 0.4 on pairs.
        undesirable: weight of the others.
        noising: which noisy latents the pictures are judged at.

    Raises:
        Refusal: if `beta` is not positive.
    """

    learns_from: ClassVar[str] = "pictures"
    beta: float = 1000.0
    desirable: float = 1.0
    undesirable: float = 1.0
    noising: Noising = field(default_factory=ForwardNoise)

    def __post_init__(self):
        require_positive(self, beta=self.beta)

    @property
    def requires(self) -> Requirements:
        return Requirements(Candidates(1, 2), answers=list_answers(self.noising), cacheable_by=self.noising.fixed)

    def __call__(self, policy: Denoiser, reference: Reference, batch: ImageBatch, draws: Draws) -> Step:
        noised = self.noising(policy, reference, batch, draws)
        residual, label = Residual(policy, noised), noised.batch.label
        frozen = reference(residual.squared)
        trained = residual.squared(policy.unet)
        reward = self.beta * (frozen - trained)
        kl = mean_over_processes(reward.detach().mean()).clamp(min=0)
        liked = torch.stack([label.prob, 1 - label.prob])[: len(reward)]
        as_liked = self.desirable * torch.sigmoid(kl - reward)
        as_disliked = self.undesirable * torch.sigmoid(reward - kl)
        per_row: Float[Tensor, " b"] = (liked * as_liked + (1 - liked) * as_disliked).mean(0)
        curves = {"kl": (kl / self.beta).expand_as(per_row)} | watch_sides(
            reward.detach(), trained.detach(), frozen, liked
        )
        return Step((label.weight * per_row).mean(), curves | by_timestep(curves, noised.t, len(policy.a)))


def watch_sides(
    reward: Float[Tensor, "k b"],
    trained: Float[Tensor, "k b"],
    frozen: Float[Tensor, "k b"],
    liked: Float[Tensor, "k b"],
) -> dict[str, Tensor]:
    """The usual curves; a single picture counts as chosen or as rejected, and those about pairs are left out."""
    if len(reward) == 2:
        return rewards(reward) | squared_errors(trained, frozen)
    chosen = liked > 0.5
    sides = torch.cat([chosen, ~chosen])
    reward, trained, frozen = (x.expand(2, -1).where(sides, torch.nan) for x in (reward, trained, frozen))
    curves = rewards(reward) | squared_errors(trained, frozen)
    return {name: curve for name, curve in curves.items() if name not in ABOUT_PAIRS}
