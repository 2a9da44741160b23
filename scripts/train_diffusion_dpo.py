"""Align a text-to-image diffusion model with image preferences.

accelerate launch scripts/train_diffusion_dpo.py --config configs/diffusion/diffusion_dpo_sd15.yaml --output_dir runs/a
"""

from diffpo.cli.command import launch
from diffpo.commands.train import main

if __name__ == "__main__":
    launch(main)
