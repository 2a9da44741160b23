"""Align a language model with preferences over its own answers, round after round.

accelerate launch scripts/train_rounds.py --config configs/rounds/iterative_dpo.yaml --output_dir runs/a
"""

from diffpo.cli.command import launch
from diffpo.commands.train_rounds import main

if __name__ == "__main__":
    launch(main)
