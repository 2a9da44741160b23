"""What negative guidance costs: stock guidance against a second network and against a shared one with a LoRA.

python scripts/benchmark.py negative --shape quarter --batch_sizes [1,16] --output_dir runs/benchmark_negative

All ways draw in turn in one process, so a noisy machine is noisy for all. On a CPU, time is that of the process alone.
Weights are random, nothing is downloaded; latents are drawn, not decoded.
"""

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict

from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.pipelines.negative import StableDiffusionNegativePipeline, StableDiffusionXLNegativePipeline
from diffpo.lab.benchmark.studies.report import Table, Value, place
from diffpo.lab.benchmark.ways.shapes import SHAPES
from diffpo.lab.benchmark.ways.turns import Clock, bootstrap_median, clock_of, in_turn

STOCK, SECOND, SHARED = "stock guidance", "second network", "shared network, LoRA switched"


def main(
    output_dir: Path | None = None,
    shape: Literal["tiny", "quarter", "sd15", "sdxl"] = "tiny",
    batch_sizes: list[int] = [1, 8],  # noqa: B006
    steps: int = 4,
    rounds: int = 12,
    warmup: int = 1,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    rank: int = 8,
    settings: str = "",
) -> None:
    """What negative guidance costs against stock guidance.

    Args:
        output_dir: gets negative.json and negative.md; null prints the table only.
        shape: of the networks: the tiny world's, SD1.5 at a quarter of its widths and half its resolution, SD1.5 or
            SDXL.
        batch_sizes: pictures at a time; one, and as many as keep the device busy.
        steps: of denoising per picture.
        rounds: timed rounds.
        warmup: rounds before them.
        dtype: of weights and activations.
        rank: of the LoRA.
        settings: the resolved config.
    """
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = clock_of(device) if device.type == "cuda" else time.process_time
    pipelines = ways(shape, device, getattr(torch, dtype), rank)
    rows = [row for batch in batch_sizes for row in time_pipelines(pipelines, batch, steps, warmup, rounds, clock)]
    caption = (
        f"Seconds per picture of {steps} steps, shape {shape}, {dtype}, medians of {rounds} rounds; the ratio is the "
        f"median over rounds with a 95 % bootstrap interval; {place(device)}."
    )
    found = Table(caption, rows)
    print(found.markdown())
    if output_dir:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "negative.md").write_text(found.markdown() + "\n")
        (output_dir / "negative.json").write_text(json.dumps(asdict(found), indent=2) + "\n")


def ways(shape: str, device: torch.device, dtype: torch.dtype, rank: int) -> dict[str, Any]:
    """Three pipelines of the same weights."""
    sizes = SHAPES[shape]
    kind = StableDiffusionXLNegativePipeline if sizes.is_xl else StableDiffusionNegativePipeline
    found = {}
    with TemporaryDirectory() as folder:
        write_lora(sizes.pipeline(torch.device("cpu")).unet, rank, Path(folder))
        for way in (STOCK, SECOND, SHARED):
            stock = sizes.pipeline(device).to(dtype)
            stock.scheduler = DDIMScheduler.from_config(stock.scheduler.config)
            found[way] = stock if way == STOCK else kind.from_pipe(stock)
            found[way].set_progress_bar_config(disable=True)
            if way != STOCK:
                found[way].load_negative(folder, shared=way == SHARED)
    return found


def write_lora(unet: Any, rank: int, folder: Path) -> None:
    LoRA(rank).attach(unet)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)


def time_pipelines(
    pipelines: dict[str, Any], batch: int, steps: int, warmup: int, rounds: int, clock: Clock
) -> list[dict[str, Value]]:
    """One row per way."""

    def drawing(pipe: Any) -> Callable[[], object]:
        prompts = ["a red circle on the left"] * batch
        return lambda: pipe(prompts, num_inference_steps=steps, guidance_scale=5.0, output_type="latent")

    seconds = in_turn({way: drawing(pipe) for way, pipe in pipelines.items()}, warmup + rounds, clock)
    taken = {way: np.array(turns[warmup:]) for way, turns in seconds.items()}
    rows: list[dict[str, Value]] = []
    for way, turns in taken.items():
        ratio, low, high = bootstrap_median(turns / taken[STOCK])
        per_picture = median(turns) / batch
        rows.append(
            {"way": way, "batch": str(batch), "s/picture": per_picture, "ratio": ratio, "low": low, "high": high}
        )
    return rows
