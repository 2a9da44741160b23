"""What becomes of rewrites: the tiny pipeline draws them, and the oracle of pictures looks for what the user asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from diffpo.diffusion.model.sampling import generate_pictures
from diffpo.lab.shapes.captions import read_caption
from diffpo.lab.shapes.oracle import measure
from diffpo.storage.hub import name_failed_loads


@dataclass(frozen=True)
class Drawing:
    """Pictures of the first rewrite of some prompts.

    Args:
        path: the pipeline.
        prompts: how many of them, from the first on.
        steps: denoising steps.
        guidance: classifier-free guidance scale.
        first_seed: of the first picture; the others count up. All models start from the same noise.
        batch_size: pictures at a time.
    """

    path: str = "assets/tiny-sd"
    prompts: int = 24
    steps: int = 25
    guidance: float = 2.5
    first_seed: int = 10_000_000
    batch_size: int = 24

    @cached_property
    def pipeline(self) -> Any:
        with name_failed_loads(self.path, "a pipeline"):
            return StableDiffusionPipeline.from_pretrained(self.path, dtype=torch.float32)

    def __call__(self, prompts: Sequence[str], rewrites: Sequence[str], folder: Path) -> list[float]:
        """Draw into a folder, by number; return the share of the user's attributes that each picture shows."""
        seeds = range(self.first_seed, self.first_seed + len(rewrites))
        pictures = generate_pictures(self.pipeline, rewrites, seeds, self.steps, self.guidance, self.batch_size)
        for number, picture in enumerate(pictures):
            picture.save(folder / f"{number:05d}.png")
        both = zip(prompts, pictures, strict=True)
        return [measure(picture).right(read_caption(prompt)) for prompt, picture in both]
