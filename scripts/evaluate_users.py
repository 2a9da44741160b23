"""Compare models that draw for synthetic users of the tiny world: each judges by the own taste, without noise.

accelerate launch scripts/evaluate_users.py --config configs/evaluate/tiny_users.yaml --output_dir runs/users/held-out
"""

from diffpo.cli.command import launch
from diffpo.commands.evaluate_users import main

if __name__ == "__main__":
    launch(main)
