"""Fixed prompts and seeds drawn before and during a run, because no curve replaces looking."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.utils import make_image_grid
from PIL import Image
from torch import nn

from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import BrokenImage, read_image
from diffpo.diffusion.model.pipeline import family_of
from diffpo.diffusion.model.sampling import generate_pictures
from diffpo.storage.files import tell_failed_writes
from diffpo.train.fit import Preview

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreviewConfig:
    """What is drawn, and when.

    Args:
        prompts: one picture each.
        every: optimiser steps between previews; the first is drawn before training.
        steps: denoising steps.
        guidance: classifier-free guidance scale.
        seed: of the first prompt; the others count up.
        side: of the pictures in pixels; null is what the base was trained on.
    """

    prompts: list[str]
    every: int = 200
    steps: int = 25
    guidance: float = 7.5
    seed: int = 0
    side: int | None = None

    def __post_init__(self):
        if not self.prompts or self.every <= 0:
            raise Refusal(f"preview needs prompts and a positive `every`, got {self}; set preview to null for none.")


class PictureGrid(Preview):
    """`previews/step-000000.png` and so on: the upper row is the untuned model, the lower one the policy as it is."""

    def __init__(self, config: PreviewConfig, pipeline: Any, output_dir: Path):
        self.config, self.pipeline, self.folder = config, pipeline, Path(output_dir) / "previews"
        self.every = config.every

    def __call__(self, step: int, accelerator: Accelerator) -> None:
        config = self.config
        seeds = range(config.seed, config.seed + len(config.prompts))
        how = {"steps": config.steps, "guidance": config.guidance, "batch_size": 4, "side": config.side}
        made = draw_in_training(self.pipeline, accelerator.device, config.prompts, seeds, **how)
        if not accelerator.is_main_process:
            return
        row = make_image_grid(made, rows=1, cols=len(made))
        with tell_failed_writes(f"The preview of step {step}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            first = self.folder / "step-000000.png"
            if step and (base := read_first_preview(first)):
                row = make_image_grid([base, row], rows=2, cols=1)
            row.save(self.folder / f"step-{step:06d}.png")
        for tracker in accelerator.trackers:
            if tracker.name in PICTURES:
                PICTURES[tracker.name](tracker, row, step)


def draw_in_training(
    pipeline: Any, device: torch.device, prompts: Sequence[str], seeds: Sequence[int], **how: Any
) -> list[Image.Image]:
    """What `generate_pictures` draws, with the network of a pipeline as it is now in training.

    Args:
        how: further arguments of `generate_pictures`.
    """
    network = pipeline.components[family_of(pipeline).part]
    network.eval()  # dropout of adapters is for training
    stored = pipeline.text_encoder.dtype  # that of mixed precision
    with on_device(pipeline, network, device), torch.autocast(device.type, stored, enabled=stored != torch.float32):
        made = generate_pictures(pipeline, prompts, seeds, **how)
    network.train()
    return made


def read_first_preview(first: Path) -> Image.Image | None:
    """The first preview; None if there is none, or, which is told, if it cannot be read."""
    if not first.exists():
        return None
    try:
        return read_image(first)
    except BrokenImage as error:
        log.warning(f"{first} is damaged ({error}); this preview shows the tuned model alone. Remove that file.")
        return None


@contextmanager
def on_device(pipeline: Any, network: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, VAE and text encoders are where the network is; encoded pairs leave them elsewhere."""
    parts: list[Any] = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    homes = [(part, part.device) for part in parts if part is not network]
    for part, _ in homes:
        part.to(device)
    try:
        yield
    finally:
        for part, home in homes:
            part.to(home)


def to_trackio(tracker: Any, picture: Image.Image, step: int) -> None:
    import trackio  # type: ignore  # optional

    tracker.log({"preview": trackio.Image(picture)}, step=step)


# accelerate's trackers take pictures in three ways, or not at all.
PICTURES: dict[str, Callable[[Any, Image.Image, int], None]] = {
    "tensorboard": lambda tracker, picture, step: tracker.log_images(
        {"preview": np.asarray(picture)[None]}, step=step, dataformats="NHWC"
    ),
    "wandb": lambda tracker, picture, step: tracker.log_images({"preview": [picture]}, step=step),
    "trackio": to_trackio,
}
