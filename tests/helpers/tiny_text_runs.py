"""Runs of a few steps on a small language model, wired as the training script does it."""

from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from tiny_runs import SHORT
from tiny_text import saved_language_model, saved_pairs

from diffpo.commands import train_text as train_text_dpo
from diffpo.data.layouts import Columns
from diffpo.text.data.pairs import TextData
from diffpo.text.model.loading import CausalLM
from diffpo.text.objective.preference import SequencePreference
from diffpo.train.run import FitConfig

SLOW = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def text_files(root: Path) -> Path:
    saved_language_model(root / "base")
    saved_pairs(root / "pairs.parquet")
    return root


def run_text(root: Path, output_dir: Path, **changed) -> None:
    """Four steps of four pairs; `changed` are arguments of the script, or fields of FitConfig."""
    config = {name: changed.pop(name) for name in list(changed) if name in FitConfig.__dataclass_fields__}
    arguments = {
        "objective": SequencePreference(),
        "base": CausalLM(str(root / "base")),
        "data": TextData(Columns(str(root / "pairs.parquet")), max_length=64, together=2, workers=0),
        "optimizer": SLOW,
        "settings": "seed: 0",
    }
    train_text_dpo.main(output_dir=output_dir, fit=FitConfig(**SHORT | config), **arguments | changed)


def train_text(root: Path, output_dir: Path, **changed) -> torch.Tensor:
    """The final weights of such a run."""
    run_text(root, output_dir, **changed)
    names = "adapter_model.safetensors", "model.safetensors"
    weights = load_file(next(output_dir / name for name in names if (output_dir / name).exists()))
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


def train_shared(root: Path) -> None:
    """To be called in several processes."""
    run_text(root, root / "two")
