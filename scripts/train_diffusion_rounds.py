"""Align a text-to-image model with preferences over its own pictures, round after round.

accelerate launch scripts/train_diffusion_rounds.py --config configs/rounds_pictures/scenes.yaml --output_dir runs/a
"""

from diffpo.cli.command import launch
from diffpo.commands.train_picture_rounds import main

if __name__ == "__main__":
    launch(main)
