"""The tiny world's oracle as a scorer: image analysis, nothing learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.evaluation.scorer import Scorer, require_as_many
from diffpo.lab.shapes.captions import read_caption
from diffpo.lab.shapes.oracle import Measurement, measure, style, utility


@dataclass(frozen=True)
class Oracle(Scorer):
    """The hidden utility of the tiny world without its noise: right attributes plus style, -1 without a clean object.

    It stands for the person whose choices the tiny pairs are, so it may judge what was trained on them. Its aspects
    are `attributes` (share of the stated ones that the picture shows), `style` and `clean`, all in [0, 1].
    """

    @property
    def name(self) -> str:
        return "oracle"

    @property
    def model_id(self) -> str:
        return "diffpo.tinyworld.oracle"

    @property
    def version(self) -> str:
        return "attributes + style, -1 if not clean"

    def __call__(self, prompts: Sequence[str], candidates: Sequence[Any]) -> Float[Tensor, " n"]:
        require_as_many(prompts, candidates)
        return stack_scores(
            [utility(measure(picture), read_caption(p)) for p, picture in zip(prompts, candidates, strict=True)]
        )

    def aspects(self, prompts: Sequence[str], candidates: Sequence[Any]) -> dict[str, Float[Tensor, " n"]]:
        asked = [read_caption(prompt) for prompt in prompts]
        seen: list[Measurement] = [measure(picture) for picture in candidates]
        both = list(zip(seen, asked, strict=True))
        return {
            "attributes": stack_scores([measured.right(wanted) for measured, wanted in both]),
            "style": stack_scores([style(measured, wanted) for measured, wanted in both]),
            "clean": stack_scores([float(measured.clean) for measured in seen]),
        }

    def check(self, prompts: Sequence[str]) -> None:
        """Raise a Refusal if one of the prompts is no caption of the tiny world."""
        for prompt in prompts:
            read_caption(prompt)


def stack_scores(numbers: list[float]) -> Float[Tensor, " n"]:
    return torch.tensor(numbers, dtype=torch.float64)
