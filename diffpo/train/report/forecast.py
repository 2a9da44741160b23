"""What a run will do and need, told before it begins."""

import math
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from diffpo.cli.names import find_public_path
from diffpo.core.objective import Objective
from diffpo.processes.launchers import autocast_type
from diffpo.train.adapters import Adapter
from diffpo.train.run import FitConfig, count_accumulated, count_copies, require_disk

GIB = 2**30
MOMENTS = 2  # of Adam and its kin


def tell_trained(objective: Objective, base: str, adapter: Adapter | None, policy: Any, fit: FitConfig) -> str:
    """What is trained of what.

    Args:
        base: where its weights come from.
    """
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    of = sum(p.numel() for p in policy.parameters())
    loss = vars(objective).get("loss")
    method = find_public_path(type(objective)) + (f" with {find_public_path(type(loss))}" if loss is not None else "")
    what = f"{find_public_path(type(adapter))} inside it" if adapter is not None else "all its weights"
    average = f", of which a moving average ({fit.ema:g}) is kept" if fit.ema is not None else ""
    return f"method      {method}\nbase        {base}: {what}, {trained:,} trainable of {of:,} parameters{average}"


def tell_length(fit: FitConfig, size: int | None, accelerator: Accelerator) -> str:
    """Steps, epochs and batch.

    Raises:
        Refusal: if epochs of a stream are asked for, or the batch does not divide over the processes.
    """
    steps, processes = fit.steps_on(size), accelerator.num_processes
    accumulated = count_accumulated(fit, processes)
    epochs = f"{steps * fit.batch_size / size:.2f} epochs of {size} pairs" if size else "from a stream"
    return (
        f"length      {steps} steps of {fit.batch_size} pairs ({processes} processes x {fit.per_device_batch_size} x "
        f"{accumulated} accumulated), {epochs}\n"
        f"precision   {str(autocast_type(accelerator)).removeprefix('torch.')} on {accelerator.device}"
    )


def tell_needs(
    policy: nn.Module,
    others: Iterable[nn.Module],
    copied: int,
    fit: FitConfig,
    output_dir: Path,
    step: int | None = None,
    keeps_best: bool = False,
) -> str:
    """Memory of all that a step keeps, and disk of all that a run leaves.

    Args:
        others: frozen parts beside the policy on its device.
        copied: bytes that each weight of a frozen copy of the policy takes; 0 if there is none.
        step: bytes that forward and backward pass take at most beside that, gradients with them; None is not known.
        keeps_best: whether checkpoints hold the best weights, too.

    Raises:
        Refusal: if checkpoints and result do not fit on the disk.
    """
    trained = sum(p.numel() * p.element_size() for p in policy.parameters() if p.requires_grad)
    weights = sum(p.numel() * p.element_size() for part in (policy, *others) for p in part.parameters())
    reference = copied * sum(p.numel() for p in policy.parameters())
    kept = weights + reference + (MOMENTS + (fit.ema is not None)) * trained
    taken = kept + (trained if step is None else step)
    checkpoint = count_copies(fit, keeps_best) * trained
    place = next(folder for folder in (output_dir, *output_dir.absolute().parents) if folder.is_dir())
    require_disk(place, checkpoint, fit.keep, trained)
    each = f"{fit.keep + 1} checkpoints of {checkpoint / GIB:.3g} GiB at most, " if checkpoint else "no checkpoints, "
    free = shutil.disk_usage(place).free
    parts = ["weights", *["a frozen copy"] * bool(reference), "two moments of Adam", "gradients"]
    parts.append("and on top come activations" if step is None else "activations")
    return (
        f"memory      {taken / GIB:.3g} GiB per process: {', '.join(parts)}\n"
        f"disk        {each}{trained / GIB:.3g} GiB of result; {free / GIB:.3g} GiB are free at {place}"
    )


def warn(device: torch.device, storage: torch.dtype, workers: int) -> Iterator[str]:
    """What is not wrong and will be regretted."""
    if storage == torch.bfloat16 and not computes_bf16(device):
        yield (
            f"bf16 is slow on {device}, which has no units for it; set --fit.mixed_precision "
            f"{'no' if device.type == 'cpu' else 'fp16'}."
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers > cores:
        yield (
            f"data.workers {workers} is more than the {cores} cores here, and workers wait for one another; lower it."
        )


def computes_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 itself, and does not imitate it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return True


def is_far(side: int, native: int) -> bool:
    """Whether pictures are half as large again as what a base was trained on, or as much smaller."""
    return abs(math.log(side / native)) >= math.log(1.5) - 1e-9
