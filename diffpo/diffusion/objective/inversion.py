"""Noisy latents by DDIM inversion: from a picture to the noise that deterministic sampling would start from."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.references import NOISE, Reference
from diffpo.core.refusal import Refusal
from diffpo.core.sharding import is_sharded
from diffpo.diffusion.data.batches import Conditioning, ImageBatch
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.noising import Noised, Noising

Implied = Callable[[Denoiser], Tensor]  # noise found by a network


@dataclass(frozen=True)
class Inversion(Noising):
    """Each side's own noise: the one that the network itself finds on the way from the picture to the pair's time.

    DDIM inversion (arXiv:2010.02502) walks over a uniform grid of times, from the clean picture to the one that the
    loss is computed at, and there eps is what closes x_t = a x_0 + s eps. One conditional prediction per step, without
    guidance. InPO (arXiv:2503.18454, github.com/JaydenLyh/InPO) adds a little noise at each step, SmPO
    (arXiv:2506.02698, github.com/JaydenLyh/SmPO) predicts again at the latent that a step has led to and takes the
    mean, which is ReNoise (arXiv:2403.14602). Unlike in the code of both, the walk ends exactly at the time of the
    loss, each pair at its own, in batches of any size: a pair that has arrived leaves the batch. So n steps cost
    (n + 1) / 2 (1 + `refinements`) forward passes on average.

    As in diffusers' `DDIMInverseScheduler`, the network is told the time that a step leads to, and its first output is
    read as one about the latent where the step begins.

    Args:
        steps: grid times, each equally likely to be the one of the loss; the clean picture is none of them.
        refinements: predictions at the latent that the step has led to, each from the one before.
        averaged: from which prediction on, and up to which (not included), the mean is taken, the first being 0; null
            is all of them, as SmPO does. (8, 10) of 9 refinements is what ReNoise takes for noisy times.
        only_last: refine only the step that leads to the time of the loss, as SmPO's paper says; its code refines all.
        eta: noise added at each step, as a share of the standard deviation of DDIM's posterior; drawn for each side
            alone. 0.1 in InPO's code.
        jitter: shift each pair's grid at random, so that the loss meets all times, as with forward noise. The grid of
            1000 timesteps otherwise ends at 99, 199, ... 999 (10 steps).
        visits: how many times of one walk the pair is compared at; a batch of b pairs then counts like visits x b.

    Raises:
        Refusal: if a setting is out of its range, or there are fewer than two timesteps for each step.
    """

    steps: int = 10
    refinements: int = 0
    averaged: tuple[int, int] | None = None
    only_last: bool = False
    eta: float = 0.0
    jitter: bool = True
    visits: int = 1

    def __post_init__(self):
        if self.steps < 1 or self.refinements < 0 or not 0 <= self.eta <= 1:
            raise Refusal(f"Inversion needs steps >= 1, refinements >= 0 and eta in [0, 1], got {self}.")
        if not 1 <= self.visits <= self.steps:
            raise Refusal(f"A walk of {self.steps} steps has 1 to {self.steps} visits, got {self.visits}.")
        if self.averaged is not None and not 0 <= self.averaged[0] < self.averaged[1] <= self.refinements + 1:
            raise Refusal(
                f"Inversion makes predictions 0 to {self.refinements}; averaged {self.averaged} is no range of them."
            )

    def __call__(self, policy: Denoiser, reference: Reference | None, batch: ImageBatch, draws: Draws) -> Noised:
        host = replace(draws, device=torch.device("cpu"))  # who walks how far decides shapes: no GPU is waited for
        times = self.grid(len(policy.a), host)
        wanted = host.normal("level", self.steps).argsort(1)[:, : self.visits]
        t = times.gather(1, wanted).T.flatten().to(draws.device, non_blocking=True)
        repeated = batch.repeated(self.visits)

        def implied(network: Denoiser) -> Tensor:
            x_t = self.walk(network, batch, times, wanted, draws)
            return (x_t - network.signal(t) * repeated.latents) / network.noise(t)

        eps = self.by(policy, reference, implied)
        return Noised(policy.noised(repeated.latents, eps, t), t, eps, repeated)

    @abstractmethod
    def by(self, policy: Denoiser, reference: Reference | None, implied: Implied) -> Float[Tensor, "k n *picture"]:
        """The noise that follows from whoever inverts, without gradient."""

    def met(self, timesteps: int) -> Int[Tensor, " n"]:
        step = timesteps // self.steps
        shifts = torch.arange(max(1, step - 1) if self.jitter else 1)
        return (self.ends(timesteps)[:, None] - shifts).flatten()

    def ends(self, timesteps: int) -> Int[Tensor, " steps"]:
        """The grid before it is shifted."""
        return torch.arange(1, self.steps + 1) * timesteps // self.steps - 1

    def grid(self, timesteps: int, draws: Draws) -> Int[Tensor, "b steps"]:
        """Each row's times, rising; the clean picture comes before the first. Time 0, where noise is hardly there and
        cannot be told, is in none of them."""
        if self.steps > timesteps // 2:
            raise Refusal(
                f"Inversion in {self.steps} steps needs a schedule of at least {2 * self.steps} timesteps, this one "
                f"has {timesteps}; lower noising.steps."
            )
        shift = draws.integers("shift", timesteps // self.steps - 1) if self.jitter else torch.zeros(len(draws.row))
        return self.ends(timesteps) - shift.long()[:, None]

    def walk(
        self,
        network: Denoiser,
        batch: ImageBatch,
        times: Int[Tensor, "b steps"],
        wanted: Int[Tensor, "b visits"],
        draws: Draws,
    ) -> Float[Tensor, "k n *picture"]:
        """Latents at the wanted steps of each row's grid: first visits of all rows, then second ones, ...

        Args:
            times, wanted: on the CPU.
        """
        needed = wanted.amax(1) + 1
        order = needed.argsort(descending=True, stable=True)  # so that those still walking are always the first n
        times, wanted, draws = times[order], wanted[order], draws.of(order.tolist())
        place = order.to(draws.device, non_blocking=True)
        x, cond = batch.latents[:, place], batch.cond.map(lambda c: c[:, place])
        found = x.new_empty(len(x), self.visits, *x.shape[1:])
        together = is_sharded(network.unet)  # each call gathers weights, so all processes have to make as many
        for step in range(self.steps if together else int(needed.max())):
            n = max(int((needed > step).sum()), 1)
            leap = InversionStep(network, x[:, :n], cond.map(lambda c, n=n: c[:, :n]), times[:n], step)
            row, visit = (wanted[:n] == step).nonzero(as_tuple=True)
            eps = leap.first()
            if not self.only_last:
                eps = self.refined(leap, eps)
            added = self.added(leap, draws.of(range(n)))
            x = leap.to(eps) + added
            arrived = x[:, row]
            if self.only_last and (len(row) or together):
                some = row if len(row) else torch.zeros(1, dtype=torch.long)
                last = leap.of(some)
                arrived = last.to(self.refined(last, eps[:, some]))[:, : len(row)] + added[:, row]
            found[:, visit, place[row]] = arrived
        return found.flatten(1, 2)

    def refined(self, leap: "InversionStep", eps: Float[Tensor, "k n *picture"]) -> Float[Tensor, "k n *picture"]:
        """The mean of the first prediction and of those made where the one before has led to."""
        said = [eps]
        for _ in range(self.refinements):
            said.append(leap.again(said[-1]))
        return torch.stack(said[slice(*self.averaged)] if self.averaged else said).mean(0)

    def added(self, leap: "InversionStep", draws: Draws) -> Float[Tensor, "k n *picture"]:
        """The noise of one step; the posterior that begins at the clean picture has no width."""
        if not self.eta or leap.step == 0:
            return torch.zeros_like(leap.x)
        k, _, *shape = leap.x.shape
        return self.eta * leap.deviation() * draws.normal(f"inversion {leap.step}", k, *shape).transpose(0, 1)


@dataclass(frozen=True, eq=False)
class InversionStep:
    """One step of n rows to their next times.

    Attributes:
        x: where it begins.
        times: of the whole walk, on the CPU.
    """

    network: Denoiser
    x: Float[Tensor, "k n *picture"]
    cond: Conditioning
    times: Int[Tensor, "n steps"]
    step: int

    @cached_property
    def t(self) -> Int[Tensor, " n"]:
        """The times that it leads to."""
        return self.times[:, self.step].to(self.x.device, non_blocking=True)

    @cached_property
    def source(self) -> tuple[Tensor, Tensor]:
        """Signal and noise where it begins; at first nothing but signal."""
        if self.step == 0:
            return self.x.new_ones(()), self.x.new_zeros(())
        t = self.times[:, self.step - 1].to(self.x.device, non_blocking=True)
        return self.network.signal(t), self.network.noise(t)

    def first(self) -> Float[Tensor, "k n *picture"]:
        """The noise predicted without knowing where the step leads to."""
        return self.network.prediction.eps(self.network.out(self.x, self.t, self.cond), self.x, *self.source)

    def again(self, eps: Float[Tensor, "k n *picture"]) -> Float[Tensor, "k n *picture"]:
        """The noise predicted where `eps` leads to."""
        return self.network.eps(self.to(eps), self.t, self.cond)

    def to(self, eps: Float[Tensor, "k n *picture"]) -> Float[Tensor, "k n *picture"]:
        """DDIM's step with this noise (arXiv:2010.02502, eq. 12, sigma 0)."""
        a, s = self.source
        return self.network.noised((self.x - s * eps) / a, eps, self.t)

    def deviation(self) -> Tensor:
        """Standard deviation of the latent at the source, given the one it leads to and the picture: DDIM's sigma at
        eta 1 (arXiv:2010.02502, eq. 16), for any path."""
        (a_from, s_from), a_to, s_to = self.source, self.network.signal(self.t), self.network.noise(self.t)
        return s_from / s_to * (s_to**2 - (a_to / a_from * s_from) ** 2).sqrt()

    def of(self, rows: Int[Tensor, " m"]) -> "InversionStep":
        place = rows.to(self.x.device, non_blocking=True)
        cond = self.cond.map(lambda c: c[:, place])
        return InversionStep(self.network, self.x[:, place], cond, self.times[rows], self.step)


@dataclass(frozen=True)
class PolicyInversion(Inversion):
    """The network that is trained inverts, as it is now: what the code of InPO and SmPO does."""

    def by(self, policy: Denoiser, reference: Reference | None, implied: Implied) -> Float[Tensor, "k n *picture"]:
        with torch.no_grad():
            return implied(policy)


@dataclass(frozen=True)
class ReferenceInversion(Inversion):
    """The frozen network inverts: noise that stays the same in training and can be cached (`--reference_cache`)."""

    needs_reference: ClassVar[bool] = True

    @property
    def fixed(self) -> str | None:
        return str(self) if self.visits == 1 else None

    def by(self, policy: Denoiser, reference: Reference | None, implied: Implied) -> Float[Tensor, "k n *picture"]:
        assert reference is not None  # the objective has seen to it
        return reference(lambda unet: implied(replace(policy, unet=unet)), NOISE)
