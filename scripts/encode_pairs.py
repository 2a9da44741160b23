"""Encode the pictures and prompts of pairs once; training then needs neither VAE nor text encoders.

accelerate launch scripts/encode_pairs.py --config configs/encode/tiny.yaml --output_dir encoded
"""

from diffpo.cli.command import launch
from diffpo.commands.encode import main

if __name__ == "__main__":
    launch(main)
