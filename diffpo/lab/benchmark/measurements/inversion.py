"""What inversion costs: InPO and SmPO against plain Diffusion-DPO, next to the arithmetic and the released code.

python scripts/benchmark.py inversion --output_dir runs/benchmark_inversion

All ways take micro-batches in turn in one process and at the same draws, so walks of one length are compared, and a
noisy machine is noisy for all. On a CPU, time is that of the process alone, so that other processes count for little.
Weights are random, nothing is downloaded.
"""

import json
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Literal

import diffusers
import torch

from diffpo.lab.benchmark.studies.inversion import Found, time_ways
from diffpo.lab.benchmark.studies.inversion_ways import DPO, WAYS
from diffpo.lab.benchmark.studies.report import Table, Value, place, told
from diffpo.lab.benchmark.ways.case import launched
from diffpo.lab.benchmark.ways.turns import clock_of


def main(
    output_dir: Path | None = None,
    shape: Literal["tiny", "quarter", "sd15", "sdxl"] = "tiny",
    lora: bool = False,
    pairs: int = 4,
    ways: list[str] = list(WAYS),  # noqa: B006
    rounds: int = 16,
    warmup: int = 1,
    settings: str = "",
) -> None:
    """What inversion costs against plain Diffusion-DPO.

    Args:
        output_dir: gets inversion.json and inversion.md; null prints the table only.
        shape: of the networks: the tiny world's, SD1.5 at a quarter of its widths and half its resolution, SD1.5 or
            SDXL.
        lora: train adapters instead of all of the UNet.
        pairs: in a pass through the networks.
        ways: what is measured next to plain DPO.
        rounds: timed rounds, each at other times and so with walks of other lengths.
        warmup: rounds before them.
        settings: the resolved config.
    """
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    case = launched(shape, lora, pairs, device)
    clock = clock_of(device) if device.type == "cuda" else time.process_time
    found = tabulate_ways(time_ways(case, list(dict.fromkeys([DPO, *ways])), rounds, warmup, clock))
    print(found.markdown())
    if output_dir:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "inversion.md").write_text(found.markdown() + "\n")
        (output_dir / "inversion.json").write_text(json.dumps(asdict(found), indent=2) + "\n")


def tabulate_ways(found: Found) -> Table:
    """One row per way, at the sides of pairs that are compared."""

    def row(way: str) -> dict[str, Value]:
        measured, by_rows, by_calls = found.measured(way), found.by_rows(way), found.by_calls(way)
        return {
            "way": way,
            "forwards expected": WAYS[way].forwards,
            "counted": found.counted(way),
            "released code": WAYS[way].as_released,
            "expected, 1 : 2.63": WAYS[way].by_arithmetic,
            "by rows": by_rows,
            "by calls": by_calls,
            "measured": measured,
            "measured / by rows": measured / by_rows,
            "measured / by calls": measured / by_calls,
            "pairs/s": 1 / (2 * found.seconds(way)),
        }

    rows = found.rows
    caption = (
        f"Time per compared side in times of plain DPO, measured: {told(found.case)}, {len(found.turns[DPO])} rounds; "
        f"{place(found.case.device)}. Forwards are those without gradient; here forward to forward and backward is "
        f"1 : {median(found.step[rows]) / median(found.forward[rows]):.2f}."
    )
    return Table(caption, [row(way) for way in found.turns])
