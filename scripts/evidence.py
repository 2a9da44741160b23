"""Run a grid of methods and seeds on the tiny world and tabulate what the oracle says, base and SFT beside them.

python scripts/evidence.py --grid configs/evidence/peers.yaml --output_dir runs/evidence --readme docs/results.md
"""

from diffpo.cli.command import launch
from diffpo.commands.evidence import main

if __name__ == "__main__":
    launch(main)
