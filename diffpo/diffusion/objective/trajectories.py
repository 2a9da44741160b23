"""Truncated sampling: a few steps of a teacher, and the picture that it then sees."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.references import NOISE, Reference
from diffpo.core.refusal import Refusal
from diffpo.core.sharding import is_sharded
from diffpo.diffusion.data.batches import ImageBatch
from diffpo.diffusion.model.denoiser import Denoiser


@dataclass(frozen=True, eq=False)
class Truncated:
    """Where trajectories were cut off.

    Attributes:
        x_t: noisy latents at time t.
        x_0: what the teacher takes them for.
        batch: one row per trajectory: the batch that was given, or each of its rows several times.
    """

    x_t: Float[Tensor, "k n *picture"]
    t: Int[Tensor, " n"]
    x_0: Float[Tensor, "k n *picture"]
    batch: ImageBatch


@dataclass(frozen=True)
class Trajectories(ABC):
    """`truncated` deterministic steps (DDIM, arXiv:2010.02502) from a point of the schedule, and a look at the end.

    The schedule's grid has `steps` times, the last being its noisiest, and ends in time 0. Trajectories that reach it
    stay there.

    Attributes:
        needs_pictures: False if prompts are enough.

    Args:
        steps: of the whole schedule.
        truncated: K, those that are taken.
        guidance: w in e = e_c + w (e_c - e_u): 0 is the conditional prediction, -1 the unconditional one.

    Raises:
        Refusal: if there are no steps, or more than the schedule has.
    """

    needs_pictures: ClassVar[bool] = True
    steps: int = 25
    truncated: int = 5
    guidance: float = -1.0

    def __post_init__(self):
        if not 1 <= self.truncated <= self.steps:
            raise Refusal(f"Trajectories need 1 <= truncated <= steps, got {self}.")

    def __call__(self, policy: Denoiser, reference: Reference, batch: ImageBatch, draws: Draws) -> Truncated:
        """Trajectories of the reference's weights."""
        host = replace(draws, device=torch.device("cpu"))  # where they begin decides shapes: no GPU is waited for
        begins = self.begins(host)
        each, n = batch.repeated(begins.shape[1]), begins.T.flatten()

        def walked(teacher: Denoiser) -> Tensor:
            x = self.begun(teacher, batch, begins, draws)
            for step in range(self.truncated):
                moved = self.stepped(teacher, x, n - step, each, self.guidance)
                going = (n > step).to(x.device, non_blocking=True)
                x = torch.where(going.view(1, -1, *[1] * policy.signature.axes), moved, x)
            t = self.times(teacher, n - self.truncated)
            said = guide_output(teacher, x, t, each, self.guidance)
            return torch.stack([x, teacher.prediction.x_0(said, x, teacher.signal(t), teacher.noise(t))])

        x_t, x_0 = reference(lambda unet: walked(replace(policy, unet=unet)), NOISE)
        return Truncated(x_t, self.times(policy, n - self.truncated), x_0, each)

    @abstractmethod
    def begins(self, draws: Draws) -> Int[Tensor, "b visits"]:
        """Steps that are left where each trajectory begins, from 1 to `steps`, on the CPU."""

    @abstractmethod
    def begun(
        self, teacher: Denoiser, batch: ImageBatch, begins: Int[Tensor, "b visits"], draws: Draws
    ) -> Float[Tensor, "k n *picture"]:
        """Noisy latents there: of all rows' first trajectories, then of their second ones, ..."""

    def times(self, teacher: Denoiser, left: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The time at which so many steps are left; nothing is below 0."""
        return (left * len(teacher.a) // self.steps - 1).clamp(min=0).to(teacher.a.device, non_blocking=True)

    def stepped(
        self, teacher: Denoiser, x: Float[Tensor, "k n *picture"], left: Int[Tensor, " n"], batch: ImageBatch, w: float
    ) -> Float[Tensor, "k n *picture"]:
        """One step (arXiv:2010.02502, eq. 12, sigma 0)."""
        t = self.times(teacher, left)
        said, a, s = guide_output(teacher, x, t, batch, w), teacher.signal(t), teacher.noise(t)
        x_0, eps = teacher.prediction.x_0(said, x, a, s), teacher.prediction.eps(said, x, a, s)
        return teacher.noised(x_0, eps, self.times(teacher, left - 1))


@dataclass(frozen=True)
class FromPictures(Trajectories):
    """The data's latents, noised to a time of the grid: what the code of Self-NPO does."""

    def begins(self, draws: Draws) -> Int[Tensor, "b visits"]:
        return draws.integers("begin", self.steps)[:, None] + 1

    def begun(
        self, teacher: Denoiser, batch: ImageBatch, begins: Int[Tensor, "b visits"], draws: Draws
    ) -> Float[Tensor, "k n *picture"]:
        noise = draws.normal("noise", *batch.latents.shape[2:]).expand_as(batch.latents)
        return teacher.noised(batch.latents, noise, self.times(teacher, begins.flatten()))


@dataclass(frozen=True)
class FromNoise(Trajectories):
    """Noise, which the teacher itself denoises to a time of the grid: needs prompts alone.

    One walk from pure noise passes all times of the grid, and several of them are used: so trajectories of a prompt
    share what leads to them, which costs (steps + visits (K + 1)) / visits predictions for each at most.

    Args:
        visits: trajectories per prompt and walk; a batch of b prompts then counts like visits x b.
        way: w of the steps that lead there.

    Raises:
        Refusal: if there are more visits than steps.
    """

    needs_pictures: ClassVar[bool] = False
    visits: int = 5
    way: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.visits <= self.steps:
            raise Refusal(f"A walk of {self.steps} steps has 1 to {self.steps} visits, got {self.visits}.")

    def begins(self, draws: Draws) -> Int[Tensor, "b visits"]:
        return draws.normal("begin", self.steps).argsort(1)[:, : self.visits] + 1

    def begun(
        self, teacher: Denoiser, batch: ImageBatch, begins: Int[Tensor, "b visits"], draws: Draws
    ) -> Float[Tensor, "k n *picture"]:
        x = draws.normal("noise", *batch.latents.shape[2:]).expand_as(batch.latents)
        found = x.new_empty(len(x), self.visits, *x.shape[1:])
        last = 1 if is_sharded(teacher.unet) else int(begins.min())  # each call of a sharded network is everybody's
        for left in range(self.steps, last - 1, -1):
            row, visit = (begins == left).nonzero(as_tuple=True)
            found[:, visit, row] = x[:, row]
            if left > last:
                x = self.stepped(teacher, x, torch.full((x.shape[1],), left), batch, self.way)
        return found.flatten(1, 2)


def guide_output(
    teacher: Denoiser, x: Float[Tensor, "k n *picture"], t: Int[Tensor, " n"], batch: ImageBatch, w: float
) -> Float[Tensor, "k n *picture"]:
    """Output for e_c + w (e_c - e_u); only what it needs is computed."""
    if w == -1:
        return teacher.out(x, t, batch.unconditional)
    said = teacher.out(x, t, batch.cond)
    return said if w == 0 else said + w * (said - teacher.out(x, t, batch.unconditional))
