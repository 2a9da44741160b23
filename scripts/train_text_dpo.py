"""Align a language model with preferences over texts.

accelerate launch scripts/train_text_dpo.py --config configs/text/dpo_lora.yaml --output_dir runs/a
"""

from diffpo.cli.command import launch
from diffpo.commands.train_text import main

if __name__ == "__main__":
    launch(main)
