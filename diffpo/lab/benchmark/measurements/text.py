"""Speed and memory of DPO on texts: our loop against TRL's DPOTrainer.

python scripts/benchmark.py text --shapes [tiny,100M] --output runs/benchmark_text.json

Both loops are the whole ones, `diffpo.fit` and `DPOTrainer.train`, with the same weights, texts and optimizer,
logging equally often; what either computes for its own curves is part of its step. Each waits for its turn before
every step, so that a noisy machine is noisy for both. On a CPU, time is that of the process alone. Peak memory is that
of a process of its own. Weights are random, nothing is downloaded. Needs `pip install trl`.
"""

import json
import multiprocessing
import time
import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
import transformers
import trl
from datasets import logging as datasets_logging

from diffpo.lab.benchmark.cost.resident import GIB, sample_memory
from diffpo.lab.benchmark.studies.report import Table, Value, place
from diffpo.lab.benchmark.ways.loops import Loop
from diffpo.lab.benchmark.ways.ours import any_precision, silence
from diffpo.lab.benchmark.ways.texts import THEIRS, WAYS, Shape, TextCase
from diffpo.lab.benchmark.ways.turns import Clock, bootstrap_median, clock_of, in_turn


def seconds_of(case: TextCase, device: torch.device, warmup: int, rounds: int, clock: Clock) -> dict[str, np.ndarray]:
    """Of each step of both ways, in turn."""
    with any_precision(), silence():
        loops = {name: Loop(partial(way, case, device, warmup + rounds + 1, [])) for name, way in WAYS.items()}
        taken = in_turn(loops, warmup + rounds, clock)
        for loop in loops.values():
            loop.end()
    return {name: np.array(turns[warmup:]) for name, turns in taken.items()}


def measure_text_peak(name: str, case: TextCase, device: str, steps: int = 3) -> float:
    """GiB that a step takes at most, in a fresh process; see `diffpo.lab.benchmark.cost.resident`."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure_text_peak_here, (name, case, device, steps))


def measure_text_peak_here(name: str, case: TextCase, device: str, steps: int) -> float:
    quiet()
    there = torch.device(device)
    with sample_memory() as sizes, any_precision(), silence():
        before = sizes[0]
        loop = Loop(partial(WAYS[name], case, there, steps + 1, []))
        for _ in range(steps):
            sizes.clear()
            if there.type == "cuda":
                torch.cuda.reset_peak_memory_stats(there)
            loop()
        peak = torch.cuda.max_memory_allocated(there) if there.type == "cuda" else max(sizes) - before
        loop.end()
    return peak / GIB


def quiet() -> None:
    warnings.simplefilter("ignore")
    datasets_logging.disable_progress_bar()
    datasets_logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()


def main(
    shapes: list[Shape] = ["tiny"],  # noqa: B006
    pairs: int = 2,
    prompt: int = 32,
    tokens: int = 128,
    rounds: int = 20,
    warmup: int = 2,
    precomputed: list[bool] = [False, True],  # noqa: B006
    checkpointing: bool = False,
    memory: bool = True,
    output: Path | None = None,
    settings: str = "",
) -> None:
    """Speed and memory of DPO on texts, ours against TRL's.

    Args:
        shapes: of the random Llama: about 2 million weights, or 100 million.
        pairs: in a batch.
        prompt: tokens of a prompt.
        tokens: of a prompt and its completion.
        rounds: timed rounds.
        warmup: rounds before them.
        precomputed: whether the reference's log-likelihoods are known before training, or computed in each step.
        checkpointing: compute activations anew in the backward pass.
        memory: measure peaks too, each in a process of its own.
        output: JSON file of the table; null prints it only.
        settings: the resolved config.
    """
    quiet()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = clock_of(device) if device.type == "cuda" else time.process_time
    rows: list[dict[str, Value]] = []
    for shape in shapes:
        for known in precomputed:
            case = TextCase(shape, pairs, prompt, tokens, known, checkpointing)
            taken = seconds_of(case, device, warmup, rounds, clock)
            peaks = {name: measure_text_peak(name, case, str(device)) if memory else None for name in WAYS}
            rows += [build_row(name, case, taken, peaks) for name in WAYS]
    caption = (
        f"DPO on {pairs} pairs of {tokens} tokens ({prompt} of them the prompt), random Llama, medians of {rounds} "
        f"rounds; speed is TRL's time by ours with a 95 % bootstrap interval; memory "
        f"{'allocated' if device.type == 'cuda' else 'resident beyond the imports'}; TRL {trl.__version__}, "
        f"transformers {transformers.__version__}, {place(device)}."
    )
    found = Table(caption, rows)
    print(found.markdown())
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(asdict(found), indent=2) + "\n")


def build_row(
    name: str, case: TextCase, taken: dict[str, np.ndarray], peaks: dict[str, float | None]
) -> dict[str, Value]:
    speed, low, high = bootstrap_median(taken[THEIRS] / taken[name])
    return {
        "model": case.shape,
        "reference": "precomputed" if case.precomputed else "in each step",
        "way": name,
        "pairs/s": case.pairs / median(taken[name]),
        "speed": speed,
        "low": low,
        "high": high,
        "peak, GiB": peaks[name],
    }
