"""Started twice by test_distributed.py: what each of two processes does and sees is written to files."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import save_file
from tiny_runs import MOMENTUM, fit_diffusion, fit_points, weights

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.train.state import training_state

SETTINGS = {"optimizer": MOMENTUM, "save_every": 1, "keep": 9}


def train(root: Path) -> None:
    """Four steps of two pairs per process; rows, noise, metrics and final weights of each."""
    seen, logged = [], []

    def prepare(model, wrapped, raw, draws: Draws):
        noise = draws.normal("noise", 2)
        seen.extend(zip(raw.epoch, raw.row, noise.flatten(1).tolist(), strict=True))
        return model.prepare(wrapped, raw, draws)

    Accelerator.log = lambda self, values, step: logged.append(values)
    model, _ = fit_diffusion(root, root / "two", prepare=prepare, **SETTINGS)
    rank = Accelerator().process_index
    assert Accelerator().num_processes == 2
    save_file({"final": weights(model.unet)}, root / f"rank{rank}.safetensors")
    (root / f"rank{rank}.json").write_text(json.dumps({"seen": seen, "logged": logged}))


def resume(root: Path) -> None:
    """The run of one process, taken up after two steps."""
    model, _ = fit_diffusion(root, root / "one", resume="latest", **SETTINGS | {"save_every": None})
    save_file({"final": weights(model.unet)}, root / f"resumed{Accelerator().process_index}.safetensors")


def fail_to_save(root: Path) -> None:
    """The second process cannot write its part of a checkpoint."""
    write_tree = training_state.write_tree

    def failing(folder: Path, name: str, tree: Any) -> None:
        if not Accelerator().is_main_process:
            raise OSError(28, "No space left on device")
        write_tree(folder, name, tree)

    training_state.write_tree = failing
    try:
        fit_points(root / "failed", save_every=2)
        said = "nothing"
    except Refusal as error:
        said = str(error)
    training_state.write_tree = write_tree
    both = gather_object([said])
    (root / "failed" / "said.json").write_text(json.dumps(both))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for part in (train, resume, fail_to_save):
        part(Path(sys.argv[1]))
