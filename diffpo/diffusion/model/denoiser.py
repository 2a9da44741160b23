"""One denoiser for every network: whatever it predicts, `eps` returns the noise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.family import Family, Signature, TokenShift
from diffpo.diffusion.base.prediction import Prediction
from diffpo.diffusion.data.batches import Conditioning
from diffpo.diffusion.families.sd import SD


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A network and the path x_t = a(t) x_0 + s(t) eps that it was trained on.

    Attributes:
        a: signal coefficient of each training timestep.
        s: noise coefficient of each training timestep.
        signature: how the network is called.
        told: what it is told of each training timestep; None tells the timestep itself.
        shift: of its sampler's times, if that depends on tokens.
        one_side_at_a_time: see `out`.
    """

    unet: nn.Module
    a: Float[Tensor, " timesteps"]
    s: Float[Tensor, " timesteps"]
    prediction: Prediction
    signature: Signature = SD()
    told: Shaped[Tensor, " timesteps"] | None = None
    shift: TokenShift | None = None
    one_side_at_a_time: bool = False

    @classmethod
    def from_scheduler(cls, unet: nn.Module, scheduler: Any, family: Family | None = None) -> "Denoiser":
        """Read path and prediction off a scheduler, as its family does (by default a UNet's of Stable Diffusion).

        Raises:
            Refusal: if the scheduler is for another kind of path, or it is not known what the network predicts.
        """
        family = family or SD()
        path = family.path(scheduler)
        return cls(unet, path.a, path.s, path.prediction, family, path.told, path.shift)

    def to(self, device: torch.device | str) -> "Denoiser":
        """The path's coefficients on a device; the network stays where it is."""
        told = None if self.told is None else self.told.to(device)
        return replace(self, a=self.a.to(device), s=self.s.to(device), told=told)

    def eps(
        self, x_t: Float[Tensor, "k b *picture"], t: Int[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "k b *picture"]:
        """Predicted noise in fp32, whatever type the network computes in."""
        return self.prediction.eps(self.out(x_t, t, cond), x_t, self.signal(t), self.noise(t))

    def out(
        self, x_t: Float[Tensor, "k b *picture"], t: Int[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "k b *picture"]:
        """What the network says, in fp32.

        One side at a time, a forward pass keeps no activations: autograd comes to the sides one after the other, runs
        each again when it is there, and frees it before the next. So whatever a loss makes of the sides, its gradient
        is what it is otherwise, activations are of one side, and each side costs one more forward pass.

        Raises:
            Refusal: if there is one side only, of which this would save nothing.
        """
        if not (self.one_side_at_a_time and torch.is_grad_enabled()):
            return self._out(x_t, t, cond)
        if (k := len(x_t)) == 1:
            raise Refusal(
                "one_side_at_a_time saves memory where an objective compares candidates, this one trains on one of "
                "each row; set base.one_side_at_a_time to false and lower fit.per_device_batch_size."
            )
        sides = [(x_t[i : i + 1], t, cond.map(lambda x, i=i: x[i : i + 1])) for i in range(k)]
        return torch.cat([checkpoint(self._out, *side, use_reentrant=False) for side in sides])

    def _out(
        self, x_t: Float[Tensor, "k b *picture"], t: Int[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "k b *picture"]:
        told = (t if self.told is None else self.told[t]).repeat(len(x_t))
        out = self.signature(self.unet, x_t.flatten(0, 1), told, cond.map(lambda x: x.flatten(0, 1)))
        return out.float().unflatten(0, x_t.shape[:2])

    def shift_of(self, picture: Sequence[int]) -> float:
        """How far the sampler moves the times of pictures whose latents have this shape.

        Raises:
            Refusal: if it does not move them by their tokens.
        """
        if self.shift is None:
            raise Refusal(
                "The base's scheduler moves times by no number of tokens (use_dynamic_shifting is not set); give "
                "Shifted a shift, e.g. the scheduler's own."
            )
        return self.shift(self.signature.tokens(picture))

    def noised(
        self, x_0: Float[Tensor, "k b *picture"], eps: Float[Tensor, "k b *picture"], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "k b *picture"]:
        return self.signal(t) * x_0 + self.noise(t) * eps

    def signal(self, t: Int[Tensor, " b"]) -> Float[Tensor, "1 b ..."]:
        return self.a[t].view(1, -1, *[1] * self.signature.axes)

    def noise(self, t: Int[Tensor, " b"]) -> Float[Tensor, "1 b ..."]:
        return self.s[t].view(1, -1, *[1] * self.signature.axes)
