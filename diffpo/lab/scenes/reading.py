"""How a base of the scenes reads its prompts: which facts are right, which fail, how clean the pictures are."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image

from diffpo.lab.scenes.bases import ZEROS
from diffpo.lab.scenes.captions import Family
from diffpo.lab.scenes.oracle import KINDS, judge, measure
from diffpo.lab.scenes.scenes import Facts

STEPS, GUIDANCE, CHUNK = 25, 2.5, 64
FIRST_SEED = 30_000_000  # pairs have those below 10,000, evaluations begin at 10,000,000


@dataclass(frozen=True)
class Reading:
    """Shares over pictures of what was asked.

    Attributes:
        facts: right single facts, by kind.
        right: right single facts of all kinds.
        whole: pictures that are clean and have all facts right.
        clean: pictures in which all that is there is recognised.
        flaws: how many pictures have which flaw.
    """

    facts: dict[str, float]
    right: float
    whole: float
    clean: float
    flaws: dict[str, int]


def read_facts(pictures: list[Image.Image], asked: list[Facts]) -> Reading:
    seen = [measure(picture) for picture in pictures]
    verdicts = [judge(one, facts) for one, facts in zip(seen, asked, strict=True)]
    by_kind = {kind: [right for verdict in verdicts for right in verdict[kind]] for kind in KINDS}
    all_right = [all(right for values in verdict.values() for right in values) for verdict in verdicts]
    return Reading(
        facts={kind: round(float(np.mean(values)), 3) for kind, values in by_kind.items() if values},
        right=round(float(np.mean([right for values in by_kind.values() for right in values])), 3),
        whole=round(float(np.mean([one.clean and right for one, right in zip(seen, all_right, strict=True)])), 3),
        clean=round(float(np.mean([one.clean for one in seen])), 3),
        flaws=dict(Counter(flaw for one in seen for flaw in set(one.flaws)).most_common()),
    )


def draw_asked(
    pipe: Any, asked: list[Facts], families: tuple[Family, ...], steps: int = STEPS, guidance: float = GUIDANCE
) -> list[Image.Image]:
    """A picture of each scene, captioned in turn by the families, each from a seed of its own."""
    prompts = [families[i % len(families)](facts) for i, facts in enumerate(asked)]
    return draw_prompts(pipe, prompts, [FIRST_SEED + i for i in range(len(prompts))], steps, guidance)


@torch.no_grad()
def draw_prompts(pipe: Any, prompts: list[str], seeds: list[int], steps: int, guidance: float) -> list[Image.Image]:
    """A picture of each prompt, of one seed each, by the pipeline's own call."""
    more: dict[str, Any] = {"max_sequence_length": ZEROS} if type(pipe) is StableDiffusion3Pipeline else {}
    pipe.set_progress_bar_config(disable=True)
    pictures = []
    for begin in range(0, len(prompts), CHUNK):
        some = slice(begin, begin + CHUNK)
        noise = [torch.Generator().manual_seed(seed) for seed in seeds[some]]
        made: Any = pipe(prompts[some], generator=noise, num_inference_steps=steps, guidance_scale=guidance, **more)
        pictures += made.images
    return pictures
