"""PickScore: CLIP ViT-H/14 fine-tuned on the choices of Pick-a-Pic's users."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from diffpo.scorers.dual import CLIP

PUBLISHED = "yuvalkirstain/PickScore_v1"
PROCESSORS = {PUBLISHED: "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"}


@dataclass(frozen=True, eq=False)
class PickScore(CLIP):
    """PickScore (arXiv:2305.01569, eq. 1, github.com/yuvalkirstain/PickScore): exp(logit scale) times the cosine.

    Between pictures of one prompt, the softmax of these scores is the probability of being picked.

    Args:
        path: the published weights, or any CLIPModel that was trained in the same way.
        processor: null is the one its authors name for the published weights, otherwise that of `path`.
        raw: leave the scale away: a cosine in [-1, 1], where the scaled score is usually about 20.
    """

    path: str = PUBLISHED
    raw: bool = False

    @property
    def name(self) -> str:
        return "pickscore"

    @property
    def version(self) -> str:
        formula = "cosine" if self.raw else "exp(logit_scale) * cosine"
        return f"{formula}; {self.precision}".replace("torch.", "")

    @property
    def prepared_by(self) -> str:
        return self.processor or PROCESSORS.get(self.path, self.path)

    def load(self) -> nn.Module:
        model: Any = super().load()
        # Before the cast to half precision, which would move the exponential by up to a percent.
        model.exponential = model.logit_scale.exp().item()
        return model

    def scale(self) -> float:
        return 1.0 if self.raw else self.network.exponential
