"""Speed and memory of Diffusion-DPO: our loop, the published way and a bare loop, and what arithmetic says of them.

python scripts/benchmark.py step --output_dir runs/benchmark --shape quarter
python scripts/benchmark.py step --check assets/benchmark.json

All ways take their steps in turn in one process, so that a noisy machine is noisy for all; ratios are medians over
rounds. Weights are random, nothing is downloaded.
"""

import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import diffusers
import torch

from diffpo.lab.benchmark.cost import guard
from diffpo.lab.benchmark.cost.arithmetic import counted_flops, matrix_rate
from diffpo.lab.benchmark.cost.memory import rows
from diffpo.lab.benchmark.cost.resident import measure_peak
from diffpo.lab.benchmark.studies import report
from diffpo.lab.benchmark.studies.changes import measured_changes
from diffpo.lab.benchmark.studies.comparison import compare, encoded_against_bare
from diffpo.lab.benchmark.ways.alone import WAYS
from diffpo.lab.benchmark.ways.case import launched
from diffpo.lab.benchmark.ways.turns import clock_of

Shape = Literal["tiny", "quarter", "sd15", "sdxl"]
Section = Literal["speed", "changes", "memory"]
TRAINED = {"full": False, "lora": True}
GUARDED_PAIRS, GUARDED_STEPS, WARMUP = 4, 25, 5


def main(
    output_dir: Path | None = None,
    shape: Shape = "tiny",
    trained: list[Literal["full", "lora"]] = ["full", "lora"],  # noqa: B006
    pairs: list[int] = [1, 4],  # noqa: B006
    accumulate: list[int] = [1, 128],  # noqa: B006
    steps: int = 25,
    warmup: int = WARMUP,
    sections: list[Section] = ["speed", "changes", "memory"],  # noqa: B006
    count: list[Shape] = [],  # noqa: B006
    compile: bool = False,
    check: Path | None = None,
    record: Path | None = None,
    settings: str = "",
) -> None:
    """Speed and memory of our loop against the published way and a bare loop.

    Args:
        output_dir: gets benchmark.json and benchmark.md; null prints the tables only.
        shape: of the networks: the tiny world's, SD1.5 at a quarter of its widths and half its resolution, SD1.5 or
            SDXL.
        trained: all of the UNet, or adapters in it.
        pairs: in a pass through the networks.
        accumulate: passes per optimizer step.
        steps: timed rounds.
        warmup: rounds before them.
        sections: what is measured.
        count: shapes whose FLOPs and memory are computed, which takes minutes (SDXL: half an hour).
        compile: measure compiled blocks too; compiling takes minutes.
        check: file of ratios; nothing else is done than to compare with it, and the command fails if a case is more
            than a tenth slower.
        record: the same, but the file is written.
        settings: the resolved config.
    """
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock, side = clock_of(device), 8192 if device.type == "cuda" else 1024

    def guarded(case: str) -> float:
        launchers = launched("tiny", TRAINED[case], GUARDED_PAIRS, device)
        return encoded_against_bare(launchers, GUARDED_STEPS, WARMUP, clock)

    if check or record:
        found = guard.check(check, guarded) if check else {}
        found |= guard.record_ratios(record, tuple(TRAINED), guarded) if record else {}
        print(", ".join(f"{case}: {value:.3f} of the bare loop" for case, value in found.items()))
        return

    def tables() -> Iterator[report.Table]:
        for name in trained:
            for n in pairs:
                case = launched(shape, TRAINED[name], n, device)
                flops = counted_flops(launched(shape, TRAINED[name], n, torch.device("cpu")))
                if "speed" in sections:
                    found = [compare(case, steps, warmup, passes, clock) for passes in accumulate]
                    yield from (report.speed(comparison, flops) for comparison in found)
                    yield report.list_parts(found[0], flops, matrix_rate(device, case.storage, clock, side))
                if "changes" in sections:
                    changes, seconds = measured_changes(case, flops, steps, warmup, clock, compile)
                    yield report.change_rows(case, changes, seconds)
                if "memory" in sections:
                    yield report.resident_rows(case, {way: measure_peak(way, case) for way in WAYS})
        if count:
            yield report.flop_rows(count)
        for size in count:
            yield report.counted_rows(size, rows(size))
            yield report.largest_rows(size, device)

    done = []
    for table in tables():
        print(table.markdown(), end="\n\n", flush=True)
        done.append(table)
        if output_dir:
            output_dir.mkdir(parents=True, exist_ok=True)
            (output_dir / "benchmark.md").write_text("\n\n".join(table.markdown() for table in done) + "\n")
            (output_dir / "benchmark.json").write_text(json.dumps([asdict(table) for table in done], indent=2) + "\n")
