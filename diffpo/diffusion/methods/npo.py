"""Diffusion-NPO trained inside the guided prediction, as its step-aware and video flavors are."""

from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor, nn

from diffpo.core.objective import Requirements
from diffpo.core.pair import PairLoss
from diffpo.core.references import NOISE, SCORES, Reference
from diffpo.core.refusal import Refusal
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.noising import Noised
from diffpo.diffusion.objective.preference import DenoisingPreference, Residual
from diffpo.diffusion.objective.space import NoiseSpace
from diffpo.losses.logistic import Sigmoid


@dataclass(frozen=True)
class JointGuidance(DenoisingPreference):
    """Pairs in their order, judged by the guided prediction; trained is its unconditional branch alone.

    eps = eps_theta(x, no prompt) + g (eps_ref(x, c) - eps_theta(x, no prompt)): the frozen network is the conditional
    branch. Since d eps / d eps_theta = 1 - g < 0, what makes the guided prediction better moves theta the other way:
    the result is a negative network, as `Reverse`d pairs make one with any other objective (arXiv:2505.11245, sec. 4).
    Its code does so for SPO and for video rewards (github.com/G-U-N/Diffusion-NPO); there the likelihoods are those of
    sampling steps, here the denoising errors of Diffusion-DPO, the reference's with both branches frozen.

    A pair costs one pass of the policy, and three of the reference.

    Args:
        loss: a change of the trained branch moves the guided prediction g - 1 times as far, hence a smaller beta here.
        guidance: g, as pipelines count it (`guidance_scale`).

    Raises:
        Refusal: if g is at most 1, where guidance is off or the sign of the trained branch positive.
    """

    loss: PairLoss = field(default_factory=lambda: Sigmoid(beta=500.0))
    guidance: float = 5.0

    def __post_init__(self):
        super().__post_init__()
        if self.guidance <= 1:
            raise Refusal(f"JointGuidance needs a guidance above 1, got {self.guidance}; pipelines use 5 to 7.5.")
        if self.space != NoiseSpace():
            raise Refusal("JointGuidance judges guided predictions of noise alone; leave objective.space out.")

    @property
    def requires(self) -> Requirements:
        answers = (NOISE,) + (SCORES,) * self.loss.needs_reference
        return replace(super().requires, answers=answers, cacheable_by=None, unconditional=True)

    def residual(self, policy: Denoiser, reference: Reference | None, noised: Noised) -> "GuidedResidual":
        assert reference is not None  # it is asked for noise
        conditional = reference(
            lambda unet: replace(policy, unet=unet).eps(noised.x_t, noised.t, noised.batch.cond), NOISE
        )
        return GuidedResidual(policy, noised, conditional, self.guidance)


@dataclass(frozen=True, eq=False)
class GuidedResidual(Residual):
    """Guided minus true noise, with a given conditional branch."""

    conditional: Float[Tensor, "k b *picture"]
    guidance: float

    def __call__(self, unet: nn.Module) -> Float[Tensor, "k b *picture"]:
        noised = self.noised
        free = replace(self.policy, unet=unet).eps(noised.x_t, noised.t, noised.batch.unconditional)
        return free + self.guidance * (self.conditional - free) - noised.eps
