"""Our own scripts as programs that a grid starts."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from diffpo.lab.evidence.grid import SCRIPT
from diffpo.processes.children import Children

SCORE, ENCODE = "scripts/score_pairs.py", "scripts/encode_pairs.py"
EVALUATE, EVALUATE_USERS = "scripts/evaluate.py", "scripts/evaluate_users.py"
VERBS = {
    SCRIPT: "train",
    "scripts/train_text_dpo.py": "train-text",
    SCORE: "score",
    ENCODE: "encode",
    "scripts/caption_pairs.py": "caption",
    "scripts/embed_users.py": "embed-users",
    EVALUATE: "evaluate",
    EVALUATE_USERS: "evaluate-users",
}
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}

programs = Children()


def program(script: str) -> list[str]:
    """What starts a script; those that are verbs of `diffpo` need not lie here, as beside an installed package."""
    return [sys.executable, "-m", *words_of(script)] if script in VERBS else [sys.executable, script]


def words_of(script: str) -> list[str]:
    return ["diffpo", VERBS[script]]


def module_of(script: str) -> str:
    """The module whose `main` a script starts; one that is no verb has its own."""
    return f"diffpo.commands.{VERBS[script].replace('-', '_')}" if script in VERBS else Path(script).stem


def placed(text: str, places: Mapping[str, str]) -> str:
    for name, folder in places.items():
        text = text.replace(name, folder)
    return text
