"""The winner-preserving guard of Diffusion-SDPO (arXiv:2511.03317)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core.refusal import Refusal


@dataclass(frozen=True)
class Guard:
    """Share of the rejected side's gradient that, to first order, cannot raise the chosen side's error.

    share = clip((1 - mu) |e_w|^2 / <e_w, e_l>, 0, 1) where <e_w, e_l> > 0, else 1, with e the output residuals of the
    chosen and the rejected side. The released code takes one scalar per device batch; here it is one per pair, so that
    no result depends on how pairs are laid out over devices.

    Args:
        mu: 0 trusts the loser fully up to the point where the winner's error would stand still; 1 ignores it where
            the two gradients agree. The release uses 0.9 for SD1.5 and 0.6 for SDXL.

    Raises:
        Refusal: if `mu` is not in [0, 1].
    """

    mu: float = 0.9

    def __post_init__(self):
        if not 0 <= self.mu <= 1:
            raise Refusal(f"Guard needs a mu in [0, 1], got {self.mu}.")

    def __call__(self, error: Float[Tensor, "2 b *picture"]) -> Float[Tensor, "2 b"]:
        """Gradient shares of the two sides from their residuals; carries no gradient itself."""
        chosen, rejected = error.detach().float().flatten(2)
        along = (chosen * rejected).sum(-1)
        share = (1 - self.mu) * chosen.square().sum(-1) / along
        return torch.stack([torch.ones_like(share), torch.where(along > 0, share.clamp(max=1.0), 1.0)])


def scale_gradient(x: Tensor, share: Tensor) -> Tensor:
    """`x` in value; its gradient is multiplied by `share`."""
    return x.detach() + share * (x - x.detach())
