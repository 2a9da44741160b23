"""The quick start of the README: Diffusion-DPO in the tiny world that comes along, on any machine, in minutes."""

import sys

from diffpo.cli.command import launch
from diffpo.commands.train import main as train

OPTIONS = {"--config": "quickstart", "--output_dir": "runs/quickstart", "--seed": "0"}


def main(words: list[str]) -> None:
    """Train with the recipe `quickstart`; options that are named win over these."""
    said = {word.partition("=")[0] for word in words}
    words = [*(f"{name}={value}" for name, value in OPTIONS.items() if name not in said), *words]
    sys.argv = ["-m", "diffpo", "train", *words]  # as the model card and the line that resumes a run write it
    launch(train, words, "diffpo quickstart")
