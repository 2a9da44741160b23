"""The last words of a run: where what it leaves lies, and how it is loaded."""

from pathlib import Path

from diffpo.train.report.curves import CURVES
from diffpo.train.state.best import BEST

SHOWN = ("report.html", "report.json", BEST, CURVES, "before_after.png", "previews", "README.md")
WEIGHTS = ("unet", "transformer", "*.safetensors")


def tell_ending(folder: Path, loading: str) -> str:
    """Two lines.

    Args:
        loading: Python that loads the result.
    """
    look = [name for name in SHOWN if (folder / name).exists()]
    weights = sorted(file.name for name in WEIGHTS for file in folder.glob(name))
    load = "; ".join(line for line in loading.splitlines() if line)
    return f"{folder} holds {', '.join(look)} to look at, and the weights: {', '.join(weights)}\nto load them: {load}"
