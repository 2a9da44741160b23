"""Build the tiny world: `tiny-sd`, `tiny-prompts` and `tiny-pairs`. Takes about an hour and a half on two cores, once.

python scripts/build_assets.py shapes --output_dir assets
"""

import warnings
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from diffpo.lab.shapes.build import build_tokenizer, save_pipeline, train_base, train_vae
from diffpo.lab.shapes.preferences import sample_pairs, split_scenes, write_prompts


def main(
    output_dir: Path,
    vae_steps: int = 3000,
    base_steps: int = 4000,
    pairs: int = 3000,
    vae: Path | None = None,
    base: Path | None = None,
    seed: int = 0,
    settings: str = "",
) -> None:
    """Build the tiny world.

    Args:
        output_dir: gets the three folders.
        vae_steps: optimiser steps of the VAE.
        base_steps: optimiser steps of text encoder and UNet.
        pairs: pairs of samples.
        vae: a finished VAE, to skip its training.
        base: a finished pipeline, to skip all training.
        seed: of everything random.
        settings: the resolved config.
    """
    torch.set_flush_denormal(True)
    warnings.filterwarnings("ignore", category=FutureWarning)
    if base is None:
        latents = AutoencoderKL.from_pretrained(vae) if vae else train_vae(vae_steps, seed=seed)
        pipeline = train_base(latents.eval(), build_tokenizer(), base_steps, seed=seed)
        save_pipeline(pipeline, output_dir / "tiny-sd")
    else:
        save_pipeline(StableDiffusionPipeline.from_pretrained(base), output_dir / "tiny-sd")
    shipped = StableDiffusionPipeline.from_pretrained(output_dir / "tiny-sd", dtype=torch.float32)
    split = split_scenes(seed)
    write_prompts(split, output_dir / "tiny-prompts", seed)
    (output_dir / "tiny-pairs").mkdir(parents=True, exist_ok=True)
    made = sample_pairs(shipped, split.training, pairs, seed=seed)
    made.to_parquet(output_dir / "tiny-pairs" / "train.parquet")
