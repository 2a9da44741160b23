"""Embed the users of a dataset: each by some pairs that they compared (PPD).

accelerate launch scripts/embed_users.py --config configs/annotate/embed.yaml --output_dir users
"""

from diffpo.cli.command import launch
from diffpo.commands.embed_users import main

if __name__ == "__main__":
    launch(main)
