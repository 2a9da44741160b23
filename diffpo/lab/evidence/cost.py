"""How often a method asks the network for one pair: counted in one training step, by a hook on every network.

python -m diffpo.lab.evidence.cost cost.json train --config configs/quickstart.yaml --output_dir runs/a
"""

import sys
import tempfile
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from diffpo.cli.command import parse
from diffpo.core.refusal import Refusal
from diffpo.storage.ledger import replace_file

ONE_STEP = (
    *("--fit.steps=1", "--fit.epochs=null", "--fit.save_every=null", "--fit.report_to=[]"),
    *("--preview=null", "--evaluation=null", "--validation=null"),
)


def count_evaluations(main: Any, arguments: list[str]) -> float:
    """Pictures that all networks together see forward for one pair of a training step, policy and references alike.

    Backward passes are not counted, nor are pictures that are encoded and texts.

    Args:
        main: a command that trains on pictures.
        arguments: its command line; what a run does besides training is switched off.

    Raises:
        Refusal: if no network of diffusers is asked.
    """
    seen, network = 0, None

    def enter(module: nn.Module, _: Any) -> None:
        nonlocal network
        if network is None and isinstance(module, ModelMixin):
            network = type(module)

    def count(module: nn.Module, _: Any, output: Any) -> None:
        nonlocal seen
        if type(module) is network:  # and none of its parts, some of which are models of diffusers, too
            seen += len(output[0])

    with tempfile.TemporaryDirectory() as folder:
        chosen, settings = parse(main, [*arguments, *ONE_STEP, f"--output_dir={folder}/run"])
        with ExitStack() as hooks:

            def begin(parameters: Any) -> Any:
                """What came before, such as checks of the base, is not training."""
                hooks.callback(register_module_forward_pre_hook(enter).remove)
                hooks.callback(register_module_forward_hook(count).remove)
                return optimizer(parameters)

            optimizer = chosen["optimizer"]
            main(**chosen | {"optimizer": begin}, settings=settings)
    if not seen:
        raise Refusal("No network of diffusers was asked, so there is no cost to count; take `cost` out of the grid.")
    return seen / chosen["fit"].batch_size


if __name__ == "__main__":
    torch.set_num_threads(1)
    file, verb, *words = sys.argv[1:]
    found = count_evaluations(import_module(f"diffpo.commands.{verb.replace('-', '_')}").main, words)
    replace_file(Path(file), f"{found}\n".encode())
