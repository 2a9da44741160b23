"""Pairwise denoising: Diffusion-DPO and its descendants are settings of these fields."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective, Requirements, Step, pair_step
from diffpo.core.pair import PairLogps, PairLoss
from diffpo.core.references import NOISE, SCORES, Reference
from diffpo.core.refusal import Refusal, require_positive
from diffpo.diffusion.data.batches import ImageBatch
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.guard import Guard, scale_gradient
from diffpo.diffusion.objective.noising import ForwardNoise, Noised, Noising
from diffpo.diffusion.objective.space import NoiseSpace, Space
from diffpo.diffusion.objective.weighting import TimeWeighting
from diffpo.losses.logistic import Sigmoid

QUARTERS = 4


@dataclass(frozen=True)
class DenoisingPreference(Objective):
    """Diffusion-DPO (arXiv:2311.12908, eq. 14): -scale/2 times the mean squared error stands in for log p(image).

    With m, r the errors of policy and reference on noise eps, the default loss is
    -log sigmoid(-beta/2 [(m_w - m_l) - (r_w - r_l)]), beta in the convention of the authors' code
    (github.com/SalesforceAIResearch/DiffusionDPO): mean over latent elements, one half, T and omega absorbed.
    Unlike there, errors are computed in fp32 and, by default, in noise space: beta means the same for v-prediction.

    Args:
        loss: any pairwise loss on margins.
        noising: which noisy latents the two sides are compared at.
        guard: keeps the winner's error from rising (Diffusion-SDPO); None is the method as published.
        scale: turns image errors into log-likelihoods of the size that a loss expects. Image recipes keep 1 and a beta
            of thousands; a text-side loss keeps its own beta and takes 5e4 (0.1 x 5e4 = 5000).
        weighting: scales the log-likelihoods by time; None is the constant of Diffusion-DPO.
        space: in which errors are squared; recipes for flows take `OutputSpace()`.

    Raises:
        Refusal: if the loss needs true probabilities, or plain errors where they are scaled or weighted, or if `scale`
            is not positive.
    """

    learns_from: ClassVar[str] = "pictures"
    loss: PairLoss = field(default_factory=lambda: Sigmoid(beta=5000.0))
    noising: Noising = field(default_factory=ForwardNoise)
    guard: Guard | None = None
    scale: float = 1.0
    weighting: TimeWeighting | None = None
    space: Space = field(default_factory=NoiseSpace)

    def __post_init__(self):
        require_positive(self, scale=self.scale)
        if self.loss.needs_probability:
            raise Refusal(
                f"{type(self.loss).__name__} needs true probabilities, the denoising surrogate is none; choose a loss "
                "of margins, e.g. diffpo.losses.Sigmoid."
            )
        if self.loss.needs_errors and (self.scale != 1 or self.weighting is not None):
            raise Refusal(
                f"{type(self.loss).__name__} needs plain errors, here they have scale {self.scale:g} and weighting "
                f"{self.weighting}; set objective.scale to 1 and objective.weighting to null."
            )

    @property
    def requires(self) -> Requirements:
        return Requirements.of(self.loss, list_answers(self.noising, self.loss.needs_reference), self.fixed)

    @property
    def fixed(self) -> str | None:
        """What errors of the reference depend on besides the pairs, if batch and draws alone decide them."""
        noising = self.noising.fixed
        return noising if noising is None or self.space == NoiseSpace() else f"{noising} in {self.space}"

    def __call__(self, policy: Denoiser, reference: Reference | None, batch: ImageBatch, draws: Draws) -> Step:
        return self.at(policy, reference, self.noising(policy, reference, batch, draws))

    def at(self, policy: Denoiser, reference: Reference | None, noised: Noised) -> Step:
        """The loss at these noisy latents."""
        residual = self.residual(policy, reference, noised)
        # The reference goes first: it keeps no activations, so it adds nothing to the policy's peak memory.
        frozen = reference(residual.squared) if self.loss.needs_reference else None  # type: ignore[reportOptionalCall]
        error = residual(policy.unet)
        trained = mean_square(error)
        guarded = scale_gradient(trained, self.guard(error)) if self.guard else trained
        scale = -0.5 * self.scale * (self.weighting(policy, noised.t) if self.weighting else 1.0)
        pair = PairLogps(
            policy=scale * guarded,
            reference=torch.zeros_like(trained) if frozen is None else scale * frozen,
            length=torch.ones_like(trained),
        )
        step = pair_step(self.loss, pair, noised.batch.label)
        curves = step.metrics | squared_errors(trained.detach(), frozen)
        return Step(step.loss, curves | by_timestep(curves, noised.t, len(policy.a)))

    def residual(self, policy: Denoiser, reference: Reference | None, noised: Noised) -> "Residual":
        """What the squared errors are of."""
        return Residual(policy, noised, space=self.space)


def list_answers(noising: Noising, scores: bool = True) -> tuple[str, ...]:
    """What a reference is asked for: noise, if pictures are inverted by it, and then scores."""
    return (NOISE,) * noising.needs_reference + (SCORES,) * scores


@dataclass(frozen=True, eq=False)
class Residual:
    """Predicted minus true noise of any network at the same noisy latents, so that policy and reference compare.

    Attributes:
        space: in which they are compared, if not as noise.
    """

    policy: Denoiser
    noised: Noised
    space: Space = field(default=NoiseSpace(), kw_only=True)

    def __call__(self, unet: nn.Module) -> Float[Tensor, "k b *picture"]:
        return self.space(replace(self.policy, unet=unet), self.noised)

    def squared(self, unet: nn.Module) -> Float[Tensor, "k b"]:
        return mean_square(self(unet))


def mean_square(error: Float[Tensor, "k b *picture"]) -> Float[Tensor, "k b"]:
    return error.square().flatten(2).mean(-1)


def mean_over_processes(x: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Mean of a number that each process has computed from a micro-batch of the same size; every process calls it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return x
    total = x.detach().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def squared_errors(trained: Float[Tensor, "k b"], frozen: Float[Tensor, "k b"] | None) -> dict[str, Tensor]:
    """The curves that tell a healthy run from one that only widens its margin."""
    errors = {"mse/policy_chosen": trained[0], "mse/policy_rejected": trained[-1]}
    if frozen is None:
        return errors
    reference = {"mse/reference_chosen": frozen[0], "mse/reference_rejected": frozen[-1]}
    return errors | reference | {"mse/chosen_minus_reference": trained[0] - frozen[0]}


def by_timestep(curves: dict[str, Tensor], t: Int[Tensor, " b"], timesteps: int) -> dict[str, Tensor]:
    """Each curve again by quarter of the schedule, NaN for pairs whose time lies elsewhere."""
    quarter = timesteps // QUARTERS
    found = t // quarter
    return {
        f"{name}/t{i * quarter}-{(i + 1) * quarter}": torch.where(found == i, curve, torch.nan)
        for name, curve in curves.items()
        for i in range(QUARTERS)
    }
