"""Processes that read data ahead of the one that computes, and what it means that one of several is gone."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils.data import DataLoader

from diffpo.core.refusal import Refusal
from diffpo.processes.stopping import leave_to_main

SHARED = Path("/dev/shm")
AHEAD = 2  # batches that each worker holds ready
DEAD = ("exited unexpectedly", "is killed by signal")
SCARCE = ("shared memory", "insufficient shared")
PARTED = ("by peer", "remote process exited", "Broken pipe", "Connection refused", "ncclRemoteError", "Socket Timeout")


def at_most(count: int) -> int:
    """So many workers, or as many as there are cores: more than that only wait for one another."""
    return min(count, os.cpu_count() or 1)


def from_workers(dataset: Any, workers: int, size: Callable[[], int], **options: Any) -> Iterator[Any]:
    """What a DataLoader gives, read by this process if there are no workers.

    Args:
        size: bytes of one item that a worker hands over, about; asked only if there are workers.
        options: of the DataLoader.

    Raises:
        Refusal: if workers cannot have the shared memory that they need, or one is killed.
    """
    if workers:
        require_shared_memory(workers, size())
    try:
        yield from DataLoader(
            dataset,
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # without one, iterating draws from the global generator and breaks resume
            worker_init_fn=leave_to_main,
            **options,
        )
    except RuntimeError as error:
        if (refusal := find_lost_process(error)) is None:
            raise
        raise refusal from error


def require_shared_memory(workers: int, size: int, shared: Path = SHARED) -> None:
    """Raise a Refusal if workers would wait for shared memory, which they do for ever, without a word.

    Args:
        size: bytes of a batch.
    """
    if not shared.is_dir():
        return
    together = min(PartialState().num_processes, max(1, torch.cuda.device_count() or PartialState().num_processes))
    needed, free = together * workers * AHEAD * size, shutil.disk_usage(shared).free
    if needed > free:
        raise Refusal(
            f"Reading ahead needs about {needed / 2**20:.0f} MiB of shared memory ({together} processes x {workers} "
            f"workers x {AHEAD} batches of {size / 2**20:.1f} MiB), {shared} has {free / 2**20:.0f} MiB free, and "
            f"workers that get none wait for ever. Start the container with --shm-size={needed // 2**29 + 1}g (or "
            "--ipc=host), or set data.workers to fewer or 0."
        )


def bytes_of(batch: Any) -> int:
    """Of all tensors of a batch."""
    sizes = []

    def noted(x: Tensor) -> Tensor:
        sizes.append(x.nbytes)
        return x

    batch.map(noted)
    return sum(sizes)


def find_lost_process(error: BaseException) -> Refusal | None:
    """What is meant by an error that says that a worker, or another process of the run, is gone; None if none does."""
    said = " ".join(str(error).split())
    if "DataLoader worker" in said and any(mark in said for mark in SCARCE):
        return Refusal(
            f"A worker that reads data got no shared memory; make {SHARED} larger (docker run --shm-size=1g, or "
            "--ipc=host), or set data.workers to fewer or 0."
        )
    if "DataLoader worker" in said and any(mark in said for mark in DEAD):
        return Refusal(
            f"A worker that reads data is gone ({said[:120]}), most often because memory ran out; set data.workers to "
            "fewer or 0, and go on with the same command (in training with --resume latest)."
        )
    if torch.distributed.is_initialized() and any(mark in said for mark in PARTED):
        return Refusal(
            f"Another process of this run is gone ({said[-120:]}); what it said tells why. Go on with the same "
            "command (in training with --resume latest)."
        )
    return None
