"""Score both pictures of every pair of a dataset.

accelerate launch scripts/score_pairs.py --config configs/annotate/score.yaml --output_dir scored
"""

from diffpo.cli.command import launch
from diffpo.commands.score import main

if __name__ == "__main__":
    launch(main)
