"""Self-NPO: a negative network from the model's own truncated sampling, without preferences."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.needs import Candidates
from diffpo.core.objective import Objective, Requirements, Step
from diffpo.core.references import NOISE, Reference
from diffpo.core.refusal import Refusal
from diffpo.diffusion.data.batches import ImageBatch
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.preference import by_timestep
from diffpo.diffusion.objective.trajectories import FromPictures, Trajectories


@dataclass(frozen=True)
class SelfNPO(Objective):
    """|f_theta(x_s, s, c) - x_0|: the student learns what a teacher sees after a few poor steps (arXiv:2505.11777).

    The teacher is the reference. It walks K steps to x_t and takes what it sees there for the picture x_0; x_t, not
    x_0, is then noised to a later time s,
    x_s = (a_s/a_t) x_t + sqrt(s_s^2 - s_t^2 a_s^2/a_t^2) n, and the student, told the prompt, predicts x_0 in one
    step. Equations are those of the code (github.com/G-U-N/Diffusion-NPO, folder Self-NPO), which knows epsilon and
    the whole UNet alone; here any prediction, on the straight path of rectified flow too, and LoRA. As there, s is
    uniform over the times after t, the loss pseudo-Huber in x_0 space, and the teacher follows the student: name
    diffpo.core.Ema with decay 0.999 as `reference`; the default is the untuned base.

    The paper calls the method data-free, its code noises real pictures. Both are here:

    - `FromPictures` (pairs, of which the chosen side is read, or diffpo.data.Captioned): where trajectories begin
      are all times of the grid, and K = 5 of 25 steps reach t = 799 at the noisiest, 0 from the last five.
    - `FromNoise` (diffpo.data.PromptsOnly): prompts alone. K steps from pure noise would only ever reach t = 799,
      and the student would learn about s > 799 alone; so the model itself first denoises to where a trajectory
      begins, and the same times are met as with pictures.

    Args:
        trajectories: where the teacher starts and how far it walks.
        huber: c in sqrt(d^2 + c^2) - c, element by element; 0.001 is nearly |d|.

    Raises:
        Refusal: if `huber` is not positive.
    """

    learns_from: ClassVar[str] = "pictures"
    trajectories: Trajectories = field(default_factory=FromPictures)
    huber: float = 1e-3

    def __post_init__(self):
        if self.huber <= 0:
            raise Refusal(f"SelfNPO needs a positive huber, got {self.huber}; 0.001 is the published one.")

    @property
    def requires(self) -> Requirements:
        pictures = Candidates(int(self.trajectories.needs_pictures))
        return Requirements(pictures, answers=(NOISE,), unconditional=True)

    def __call__(self, policy: Denoiser, reference: Reference, batch: ImageBatch, draws: Draws) -> Step:
        cut = self.trajectories(policy, reference, batch.best(), draws)
        visits, shape = range(len(cut.t) // len(draws.row)), cut.x_t.shape[2:]
        s = draw_later(cut.t, len(policy.a), torch.cat([draws.uniform(f"later {visit}") for visit in visits]))
        noise = torch.cat([draws.normal(f"fresh {visit}", *shape) for visit in visits])
        x_s = noised_from(policy, cut.x_t, cut.t, s, noise[None])
        seen = policy.prediction.x_0(policy.out(x_s, s, cut.batch.cond), x_s, policy.signal(s), policy.noise(s))
        off = (seen - cut.x_0).square() + self.huber**2
        loss = (off.sqrt() - self.huber).flatten(2).mean(-1)[0]
        curves = {"huber/policy": loss.detach()}
        return Step((cut.batch.label.weight * loss).mean(), curves | by_timestep(curves, s, len(policy.a)))


def draw_later(t: Int[Tensor, " n"], timesteps: int, share: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Times after t, up to the last one, where `share` in [0, 1) is uniform."""
    return t + 1 + (share * (timesteps - 1 - t)).long().clamp(max=timesteps - 2 - t)


def noised_from(
    denoiser: Denoiser,
    x_t: Float[Tensor, "k n *picture"],
    t: Int[Tensor, " n"],
    s: Int[Tensor, " n"],
    noise: Float[Tensor, "1 n *picture"],
) -> Float[Tensor, "k n *picture"]:
    """Latents at s given those at an earlier t: noise is added so that s has its own noise in all."""
    kept = denoiser.signal(s) / denoiser.signal(t)
    added = denoiser.noise(s).square() - (denoiser.noise(t) * kept).square()
    return kept * x_t + added.clamp(min=0).sqrt() * noise
