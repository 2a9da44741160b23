"""Accelerated preference optimization: momentum between rounds, as a step of weights (APO, arXiv:2410.06293).

A round trains plain weights on pairs that its start, which is also its reference, has answered. The next one starts
from theta + alpha (theta - before), theta and before being the plain weights of the last two rounds, not their starts.
It is the paper's (pi / pi_before)^alpha where log p is linear in the weights, and else a heuristic. What comes out in
the end is the plain result of the last round. alpha is 0.3 in the paper; its optimizer starts anew in each round.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffpo.core.refusal import Refusal
from diffpo.core.weights import Blend, Network
from diffpo.storage.files import name_failed_writes, require_folder
from diffpo.storage.tensors import open_tensors, read_header

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Extrapolated(Mapping[str, Tensor]):
    """theta + alpha (theta - before) by name, computed in fp64 when it is asked for, in the type of theta.

    What is no floating-point number (a counter, a position) stays as it is.

    Args:
        plain: theta.
        before: of the round before.
        dtype: of the results; None is that of theta. Steps of a learning rate of 1e-6 are lost in bf16.

    Raises:
        Refusal: if they are of different architectures.
    """

    plain: Weights
    before: Weights
    alpha: float
    dtype: torch.dtype | None = None

    def __post_init__(self):
        _ = self.blend

    @cached_property
    def blend(self) -> Blend:
        return Blend(self.plain, ((-self.alpha, Network("the round before", self.before)),))

    def __getitem__(self, name: str) -> Tensor:
        theta = self.plain[name]
        return self.blend[name].to(self.dtype or theta.dtype) if theta.is_floating_point() else theta

    def __iter__(self) -> Iterator[str]:
        return iter(self.plain)

    def __len__(self) -> int:
        return len(self.plain)


def run_accelerated(start: Weights, solve: Callable[[Weights, int], Weights], rounds: int, alpha: float) -> Weights:
    """The plain weights of the last of some rounds.

    Args:
        start: theta of the first round's start and "before".
        solve: trains round t, counted from 0, from its start, which is also its reference, to its plain weights.
    """
    plain = current = start
    for t in range(rounds):
        before, plain = plain, solve(current, t)
        current = Extrapolated(plain, before, alpha)
    return plain


def extrapolate(
    plain: Path, before: Path, output_dir: Path, alpha: float, dtype: torch.dtype | None = None
) -> tuple[int, float]:
    """Write the start of the next round: a copy of a model's folder with other weights, a file at a time.

    Args:
        plain: folder with the weights of the last round in safetensors, whatever their library, at its top.
        before: the same of the round before, or of the base in the first one.
        output_dir: which does not exist, or is empty.
        dtype: of the weights written; None is each weight's own.

    Returns:
        How many tensors were written, and |theta - before| / |theta|.

    Raises:
        Refusal: if a folder has no weights, they are of a LoRA or of different architectures, the two are the same,
            or there is something at output_dir.
        Refusal: if the disk is full.
    """
    if plain.resolve() == before.resolve():
        raise Refusal(f"{plain} is given as the last round and as the one before; name two.")
    if output_dir.exists() and (output_dir.is_file() or any(output_dir.iterdir())):
        raise Refusal(f"output_dir {output_dir} is not empty and is not overwritten; choose another one.")
    files, theta, earlier = weight_files(plain), open_tensors(weight_files(plain)), open_tensors(weight_files(before))
    after = Extrapolated(theta, earlier, alpha, dtype)
    moved = size = 0.0
    unfinished = output_dir.with_name(f".{output_dir.name}.unfinished")
    with name_failed_writes(str(output_dir), "nothing was left there"):
        try:
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
            checkpoints = shutil.ignore_patterns("*.safetensors", "checkpoint-*", "metrics.jsonl", "README.md")
            shutil.copytree(plain, unfinished, ignore=checkpoints)
            for file in files:
                names = [name for name in theta if theta.files[name] == file]
                save_file(
                    {name: after[name].contiguous() for name in names},
                    unfinished / file.name,
                    read_header(file) or None,
                )
                for name in names:
                    moved += float((theta[name].double() - earlier[name].double()).square().sum())
                    size += float(theta[name].double().square().sum())
            unfinished.rename(output_dir)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return len(theta), (moved / size) ** 0.5


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files at the top of a folder.

    Raises:
        Refusal: if there are none, or they are those of a LoRA, whose factors cannot be extrapolated apart.
    """
    require_folder(folder, "weights")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise Refusal(f"{folder} has no weights in safetensors at its top; name the folder of the network itself.")
    if any("lora" in name for name in open_tensors(files)):
        raise Refusal(f"{folder} holds a LoRA; merge it into its base first, and name the merged weights.")
    return files
