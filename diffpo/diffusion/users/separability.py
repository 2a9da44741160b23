"""Whether embeddings tell users apart: a sanity check that needs no training."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffpo.core.refusal import Refusal
from diffpo.diffusion.users.embeddings import UserEmbeddings

FEWEST = 3  # chunks of a user: one is held out, a mean of one would be no mean


class Recognized(NamedTuple):
    """How often the held-out chunk of a user is given to its user.

    Attributes:
        users: that have enough chunks, and so many answers are possible.
        top_1: share of them whose own mean is the nearest.
        top_5: share of them whose own mean is among the five nearest.
    """

    users: int
    top_1: float
    top_5: float


def recognize_users(embeddings: UserEmbeddings) -> Recognized:
    """Give each user's last chunk to the user with the nearest mean of the other chunks.

    Nearest by the mean over tokens of their cosines, after the mean over all users was subtracted. PPD
    (arXiv:2501.06655) trains a residual network for the same question. Chance is 1 / users and 5 / users; the chunks
    of a user share no pair.

    Raises:
        Refusal: if fewer than two users have three chunks or more.
    """
    known = [user for user in embeddings.users if len(embeddings.chunks(user)) >= FEWEST]
    if len(known) < 2:
        raise Refusal(
            f"{len(known)} of {len(embeddings.users)} users in {embeddings.path} have {FEWEST} chunks or more, "
            "telling them apart takes 2 such users; embed more chunks per user (most_chunks), or leave classify out."
        )
    means, held_out = [], []
    for user in known:
        *others, last = (embeddings.read(user, chunk) for chunk in embeddings.chunks(user))
        means.append(torch.stack(others).mean(0))
        held_out.append(last)
    center = torch.stack(means).mean(0)
    centered = (torch.nn.functional.normalize(torch.stack(part) - center, dim=-1) for part in (held_out, means))
    ranks = rank_users(*centered)
    return Recognized(len(known), *((ranks < n).float().mean().item() for n in (1, 5)))


def rank_users(
    held_out: Float[Tensor, "users tokens width"], means: Float[Tensor, "users tokens width"]
) -> Int[Tensor, " users"]:
    """How many means are nearer than a user's own one, given unit tokens; a tie counts against it."""
    cosines = torch.einsum("itw,jtw->ij", held_out, means)
    own = cosines.diagonal()[:, None]
    return (cosines >= own).sum(1) - 1
