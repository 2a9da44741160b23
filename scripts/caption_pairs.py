"""Give every pair of a dataset two captions: one for each picture (DCPO).

accelerate launch scripts/caption_pairs.py --config configs/annotate/caption.yaml --output_dir captioned
"""

from diffpo.cli.command import launch
from diffpo.commands.caption import main

if __name__ == "__main__":
    launch(main)
