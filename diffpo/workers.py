"""Processes that read data ahead of the one that computes."""

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from diffpo.stopping import leave_to_main


def at_most(count: int) -> int:
    """So many workers, or as many as there are cores: more than that only wait for one another."""
    return min(count, os.cpu_count() or 1)


def from_workers(dataset: Any, workers: int, **options: Any) -> Iterator[Any]:
    """What a DataLoader gives, read by this process if there are no workers.

    Args:
        options: of the DataLoader.
    """
    yield from DataLoader(
        dataset,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # without one, iterating draws from the global generator and breaks resume
        worker_init_fn=leave_to_main,
        **options,
    )
