"""Pictures from a pipeline: a fixed seed for each prompt, whatever the batch."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from diffpo.diffusion.latents import unscaled
from diffpo.refusal import Refusal

PIXELS = 2**22  # decoded at a time, as many as are encoded (diffpo.diffusion.loading)


def generate(
    pipeline: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int = 25,
    guidance: float = 7.5,
    batch_size: int = 16,
    title: str | None = None,
    side: int | None = None,
) -> list[Image.Image]:
    """One picture per prompt; picture i starts from the noise of `seeds[i]`, drawn on the CPU.

    Args:
        steps: denoising steps.
        guidance: classifier-free guidance scale.
        title: shown on a progress bar; None shows none.
        side: of the square pictures in pixels; None is what the network was trained on.

    Raises:
        Refusal: if there are more steps than the scheduler knows.
    """
    if steps > (most := pipeline.scheduler.config.num_train_timesteps):
        raise Refusal(f"{steps} denoising steps are more than the {most} that the scheduler knows; take fewer.")
    pipeline.set_progress_bar_config(disable=True)
    made: list[Image.Image] = []
    for begin in tqdm(range(0, len(prompts), batch_size), desc=title, disable=title is None):
        some = slice(begin, begin + batch_size)
        latents = pipeline(
            list(prompts[some]),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[some]],
            height=side,
            width=side,
            output_type="latent",
        ).images
        made += decoded(pipeline, latents)
    return made


@torch.no_grad()
def decoded(pipeline: Any, latents: torch.Tensor) -> list[Image.Image]:
    """Pictures of latents, in the VAE's own type also where autocast is on: SDXL's decoder overflows in fp16."""
    vae = pipeline.vae
    pictures = max(1, PIXELS // (pipeline.vae_scale_factor**2 * latents.shape[-1] * latents.shape[-2]))
    made: list[Image.Image] = []
    with torch.autocast(latents.device.type, enabled=False):
        for some in unscaled(vae, latents.to(vae.dtype)).split(pictures):
            made += pipeline.image_processor.postprocess(vae.decode(some).sample, output_type="pil")
    return made
