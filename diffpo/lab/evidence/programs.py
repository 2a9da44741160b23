"""Our own scripts as programs that a grid starts."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from diffpo.lab.evidence.grid import SCRIPT
from diffpo.processes.children import Children

SCORE, ENCODE = "scripts/score_pairs.py", "scripts/encode_pairs.py"
TEXT, ROUNDS = "scripts/train_text_dpo.py", "scripts/train_rounds.py"
PICTURE_ROUNDS = "scripts/train_diffusion_rounds.py"
EVALUATE, EVALUATE_USERS = "scripts/evaluate.py", "scripts/evaluate_users.py"
VERBS = {
    SCRIPT: "train",
    TEXT: "train-text",
    ROUNDS: "rounds",
    PICTURE_ROUNDS: "rounds-pictures",
    SCORE: "score",
    ENCODE: "encode",
    "scripts/caption_pairs.py": "caption",
    "scripts/embed_users.py": "embed-users",
    EVALUATE: "evaluate",
    EVALUATE_USERS: "evaluate-users",
}
# Modules that have another name than their verb.
COMMANDS = {"rounds": "train_rounds", "rounds-pictures": "train_picture_rounds"}
TAKES_UP = (ROUNDS, PICTURE_ROUNDS)  # what goes on after a kill without being told, and takes no --resume
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}

programs = Children()


def program(script: str) -> list[str]:
    """What starts a script; those that are verbs of `diffpo` need not lie here, as beside an installed package."""
    return [sys.executable, "-m", *words_of(script)] if script in VERBS else [sys.executable, script]


def words_of(script: str) -> list[str]:
    return ["diffpo", VERBS[script]]


def module_of(script: str) -> str:
    """The module whose `main` a script starts; one that is no verb has its own."""
    if script not in VERBS:
        return Path(script).stem
    verb = VERBS[script]
    return f"diffpo.commands.{COMMANDS.get(verb, verb.replace('-', '_'))}"


def placed(text: str, places: Mapping[str, str]) -> str:
    for name, folder in places.items():
        text = text.replace(name, folder)
    return text
