"""The scenes' oracle as a scorer: image analysis, nothing learned."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from diffpo.evaluation.scorer import Scorer, require_as_many
from diffpo.lab.scenes.captions import read_caption
from diffpo.lab.scenes.oracle import measure
from diffpo.lab.scenes.people import COMMON, SceneTaste, share_right
from diffpo.lab.shapes.scorer import stack_scores


@dataclass(frozen=True)
class SceneOracle(Scorer):
    """The common taste of the scenes' people without any noise: share of right facts plus style, -1 if not clean.

    It stands for the people whose choices the pairs are, so it may judge what was trained on them. Its aspects are
    `facts` (share of the stated ones that the picture shows), `whole` (1 if all are right and the picture is clean),
    `style` and `clean`, all in [0, 1].

    Args:
        taste: weights of what captions leave open.
    """

    taste: SceneTaste = field(default_factory=lambda: COMMON)

    @property
    def name(self) -> str:
        return "oracle"

    @property
    def model_id(self) -> str:
        return "diffpo.scenes.oracle"

    @property
    def version(self) -> str:
        return f"facts + {self.taste}, -1 if not clean"

    def __call__(self, prompts: Sequence[str], candidates: Sequence[Any]) -> Float[Tensor, " n"]:
        require_as_many(prompts, candidates)
        both = zip(prompts, candidates, strict=True)
        return stack_scores([self.taste.utility(measure(picture), read_caption(prompt)) for prompt, picture in both])

    def aspects(self, prompts: Sequence[str], candidates: Sequence[Any]) -> dict[str, Float[Tensor, " n"]]:
        asked = [read_caption(prompt) for prompt in prompts]
        seen = [measure(picture) for picture in candidates]
        right = [share_right(one, facts) for one, facts in zip(seen, asked, strict=True)]
        return {
            "facts": stack_scores(right),
            "whole": stack_scores([float(one.clean and share == 1) for one, share in zip(seen, right, strict=True)]),
            "style": stack_scores([self.taste.style(one, facts) for one, facts in zip(seen, asked, strict=True)]),
            "clean": stack_scores([float(one.clean) for one in seen]),
        }

    def check(self, prompts: Sequence[str]) -> None:
        """Raise a Refusal if one of the prompts is no caption of a scene."""
        for prompt in prompts:
            read_caption(prompt)
