"""Compare any number of text-to-image models, or folders of their pictures, by any scorers.

accelerate launch scripts/evaluate.py --config configs/evaluate/tiny.yaml --output_dir runs/evaluation
"""

from diffpo.cli.command import launch
from diffpo.commands.evaluate import main

if __name__ == "__main__":
    launch(main)
