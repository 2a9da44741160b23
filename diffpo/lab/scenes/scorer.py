"""What the scenes' pictures are measured by: the oracle as a scorer, which is image analysis, and rendered scenes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffpo.core.refusal import require_at_least
from diffpo.diffusion.evaluation.fidelity import ReferencePictures
from diffpo.evaluation.scorer import Scorer, require_as_many
from diffpo.lab.scenes.captions import read_caption
from diffpo.lab.scenes.oracle import measure
from diffpo.lab.scenes.people import COMMON, SceneTaste, share_right
from diffpo.lab.scenes.scenes import draw_scene, random_facts
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


@dataclass(frozen=True)
class SceneRenders(ReferencePictures):
    """Rendered scenes of the evaluation part: pictures as the scenes' bases were to draw them.

    Args:
        count: of pictures.
        seed: of the scenes, and of what captions leave open in them.
    """

    count: int = 2000
    seed: int = 0

    def __post_init__(self):
        require_at_least(1, **{"frechet.reference.count": self.count})

    @property
    def identity(self) -> dict[str, Any]:
        return {"scenes": "evaluation", "seed": self.seed}

    def pictures(self) -> Iterable[Image.Image]:
        rng = np.random.default_rng(self.seed)
        return (draw_scene(random_facts(rng, "evaluation"), rng) for _ in range(self.count))
