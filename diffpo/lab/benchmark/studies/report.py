"""What was measured and computed, as tables."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any

import torch

from diffpo.lab.benchmark.cost.arithmetic import Costs, counted_flops
from diffpo.lab.benchmark.cost.memory import CARD, CONTEXT, MemoryRow, largest_counted, largest_measured, options
from diffpo.lab.benchmark.studies.changes import Change, Seconds
from diffpo.lab.benchmark.studies.comparison import DRAWS, PREDICTED, Comparison
from diffpo.lab.benchmark.ways.bare import BARE
from diffpo.lab.benchmark.ways.case import Case, launched
from diffpo.lab.benchmark.ways.ours import ENCODED, REMEMBERED
from diffpo.lab.benchmark.ways.published import PUBLISHED

Value = float | str | None


@dataclass(frozen=True)
class Table:
    """Rows of one kind.

    Attributes:
        caption: what, where, and whether it was computed or measured, in a line.
        rows: column names and values; all rows have the same columns.
    """

    caption: str
    rows: list[dict[str, Value]]

    def markdown(self) -> str:
        head = list(self.rows[0])
        lines = [head, ["---"] * len(head), *([show_digits(value) for value in row.values()] for row in self.rows)]
        return "\n".join([self.caption, "", *(f"| {' | '.join(line)} |" for line in lines)])


def show_digits(value: Value) -> str:
    """Three digits that count, or nothing where there is no number."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.{2 if abs(value) >= 10 else 3}f}"


def place(device: torch.device) -> str:
    """Where something was measured."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def told(case: Case) -> str:
    trained = "LoRA" if case.lora else "all of the UNet"
    checkpointing = ", gradient checkpointing" if case.checkpointing else ""
    pairs = "1 pair" if case.pairs == 1 else f"{case.pairs} pairs"
    return f"{case.shape}, {trained}, {pairs} per pass, {'bf16' if case.bf16 else 'fp32'}{checkpointing}"


def speed(found: Comparison, flops: Costs) -> Table:
    """Every way against the published one and against the bare loop."""
    optimizer = found.costs.optimizer if found.accumulate > 1 else 0.0

    def row(way: str) -> dict[str, Value]:
        measured, by_time = found.gain(way), PREDICTED[way](found.costs) if way in PREDICTED else None
        return {
            "way": way,
            "pairs/s": found.case.pairs / (median(found.seconds[way]) + optimizer),
            "gain": measured,
            "predicted by FLOPs": PREDICTED[way](flops) if way in PREDICTED else None,
            "by parts' times": by_time,
            "measured / predicted": measured / by_time if by_time else None,
            "time / bare loop": found.against_bare(way),
        }

    update = "optimizer at every step" if found.accumulate == 1 else f"optimizer shared by {found.accumulate} passes"
    caption = f"Speed, measured: {told(found.case)}, {update}; {place(found.case.device)}."
    return Table(caption, [row(way) for way in (PUBLISHED, *PREDICTED, BARE)])


def list_parts(found: Comparison, flops: Costs, rate: float) -> Table:
    """What the published way's step is made of.

    Args:
        rate: FLOP per second of a large matrix product: a part far below it is bound by memory or by launches.
    """
    whole = median(found.seconds[PUBLISHED])
    times = asdict(Costs.medians(found.seconds)) | {DRAWS: median(found.seconds[DRAWS])}
    counts = asdict(flops) | {DRAWS: 0.0}
    rows: list[dict[str, Value]] = [
        {
            "part": name,
            "ms": 1000 * seconds,
            "share of the step": seconds / whole,
            "TFLOP": counts[name] / 1e12,
            "TFLOP/s": counts[name] / seconds / 1e12,
            "of the matrix rate": counts[name] / seconds / rate,
        }
        for name, seconds in times.items()
    ]
    caption = f"Parts of the published way, times measured, FLOPs computed: {told(found.case)}; large matrix products"
    return Table(f"{caption} reach {rate / 1e12:.3g} TFLOP/s here.", rows)


def change_rows(case: Case, changes: Iterable[Change], seconds: Seconds) -> Table:
    """Each change alone."""
    rows: list[dict[str, Value]] = [
        {
            "change": change.name,
            "predicted by FLOPs": change.by_flops,
            "by parts' times": change.by_time(seconds),
            "measured": change.gain(seconds),
            "why they differ": change.why,
        }
        for change in changes
    ]
    return Table(f"Each change switched on alone, measured: {told(case)}; {place(case.device)}.", rows)


def resident_rows(case: Case, peaks: dict[str, float]) -> Table:
    what = "allocated" if case.device.type == "cuda" else "resident beyond the imports"
    rows: list[dict[str, Value]] = [{"way": way, "GiB": peak} for way, peak in peaks.items()]
    return Table(f"Peak memory, measured, {what}: {told(case)}; {place(case.device)}.", rows)


def counted_rows(shape: str, rows: Iterable[MemoryRow]) -> Table:
    def told_of(row: MemoryRow) -> dict[str, Value]:
        values: dict[str, Any] = {field.name: getattr(row, field.name) for field in fields(row)}
        return values | {"peak / expected": row.peak / row.expected}

    caption = f"Peak memory of {shape}, GiB, computed: one pair per pass, bf16; expected is the published way's peak"
    return Table(f"{caption} without the frozen networks that are not needed.", [told_of(row) for row in rows])


def flop_rows(shapes: Iterable[str]) -> Table:
    """FLOPs of one pair, and the gains that follow."""
    rows: list[dict[str, Value]] = []
    for shape in shapes:
        for lora in (False, True):
            case = launched(shape, lora, 1, torch.device("cpu"))
            costs = counted_flops(case)
            tera = {f"{name}, TFLOP": value / 1e12 for name, value in asdict(costs).items() if name != "optimizer"}
            gains = {"latents from files": costs.gain_without("vae"), ENCODED: PREDICTED[ENCODED](costs)}
            gains |= {REMEMBERED: PREDICTED[REMEMBERED](costs)}
            rows.append({"case": told(case)} | tera | gains)
    return Table("FLOPs of the published way and the gains that follow, computed: 2 per multiply-add.", rows)


def largest_rows(shape: str, device: torch.device) -> Table:
    """The largest batch of adapters in a card's memory."""
    rows: list[dict[str, Value]] = []
    for way in (PUBLISHED, ENCODED):
        found: dict[str, Value] = {
            "way": way,
            "pairs, computed": largest_counted(way, options(shape)["LoRA, checkpointing, 8-bit Adam"]),
        }
        if device.type == "cuda":
            found["pairs, tried"] = largest_measured(way, launched(shape, True, 1, device))
        rows.append(found)
    caption = f"Largest pass of {shape}, LoRA, checkpointing, 8-bit Adam, within {CARD:.0f} GiB"
    return Table(f"{caption}, of which CUDA itself is given {CONTEXT:.0f}.", rows)
