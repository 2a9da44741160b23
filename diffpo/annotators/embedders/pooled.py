"""A person as a direction among CLIP's embeddings of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from diffpo.annotators.embedders.embedder import Embedded, Shown, UserEmbedder, commit_of
from diffpo.scorers.clip_score import CLIPScore
from diffpo.scorers.dual import CLIP


@dataclass(frozen=True, eq=False)
class PooledDifference(UserEmbedder):
    """Three tokens, in this order: means of e(liked) - e(disliked), e(liked) and e(disliked) over comparisons.

    Ours, for where a vision-language model is too much: seconds on a CPU, and no text. e has length 1. Captions are
    not looked at: both pictures have the same, so what both show because of it cancels in the first token, which is 0
    for a person who likes and dislikes the same picture. The other two give attention something to choose from: a
    softmax over a single token is 1 whatever the picture.

    Args:
        clip: whose embeddings of pictures are taken, e.g. diffpo.scorers.CLIPScore.
    """

    clip: CLIP = field(default_factory=CLIPScore)

    per_file = 1024

    @property
    def model_id(self) -> str:
        return self.clip.path

    @property
    def commit(self) -> str | None:
        return commit_of(self.clip.path, self.clip.revision)

    @property
    def identity(self) -> dict[str, Any]:
        precision = str(self.clip.precision).removeprefix("torch.")
        about = {"embedder": type(self).__name__, "model_id": self.model_id, "revision": self.commit}
        return about | {"precision": precision, "processor": self.clip.prepared_by}

    @property
    def shape(self) -> tuple[int, int]:
        return 3, self.clip.network.config.projection_dim

    def check(self) -> None:
        self.clip.check([])

    @torch.no_grad()
    def __call__(self, chunks: Sequence[Sequence[Shown]]) -> Embedded:
        pictures = [picture for chunk in chunks for shown in chunk for picture in (shown.liked, shown.disliked)]
        begins = range(0, len(pictures), self.clip.batch_size)
        batches = [self.clip.embed_pictures(pictures[i : i + self.clip.batch_size]).cpu() for i in begins]
        liked, disliked = torch.cat(batches).unflatten(0, (-1, 2)).unbind(1)
        told = torch.stack([liked - disliked, liked, disliked], dim=1)
        tokens = torch.stack([of_chunk.mean(0) for of_chunk in told.split([len(chunk) for chunk in chunks])])
        return Embedded(tokens, [""] * len(chunks))
