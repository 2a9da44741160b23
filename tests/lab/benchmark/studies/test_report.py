import pytest
import torch

from diffpo.lab.benchmark.cost.arithmetic import Costs
from diffpo.lab.benchmark.cost.memory import MemoryRow
from diffpo.lab.benchmark.studies.comparison import DRAWS, Comparison
from diffpo.lab.benchmark.studies.report import Table, counted_rows, list_parts, show_digits, speed, told
from diffpo.lab.benchmark.ways.bare import BARE
from diffpo.lab.benchmark.ways.case import launched
from diffpo.lab.benchmark.ways.ours import ENCODED, PIXELS, REMEMBERED
from diffpo.lab.benchmark.ways.published import OPTIMIZER, POLICY, PUBLISHED, REFERENCE, TEXT, VAE

SECONDS = {VAE: [2.0], TEXT: [0.5], REFERENCE: [1.5], POLICY: [4.0], OPTIMIZER: [1.0]}
SECONDS |= {PUBLISHED: [9.0], PIXELS: [9.0], ENCODED: [6.0], REMEMBERED: [4.5], BARE: [6.0], DRAWS: [0.1]}
FLOPS = Costs(vae=2e12, text=0.0, reference=2e12, policy=6e12, optimizer=0.0)


def found(accumulate: int = 1) -> Comparison:
    return Comparison(launched("tiny", False, 3, torch.device("cpu")), accumulate, SECONDS)


def row_of(table: Table, name: str) -> dict:
    return next(row for row in table.rows if name in row.values())


def test_measured_gains_stand_beside_both_predictions():
    row = row_of(speed(found(), FLOPS), ENCODED)
    assert row["pairs/s"] == 3 / 6
    assert (row["gain"], row["predicted by FLOPs"], row["by parts' times"]) == (1.5, 10 / 8, 9 / 6.5)
    assert row["measured / predicted"] == pytest.approx(1.5 / (9 / 6.5))
    assert row["time / bare loop"] == 1.0


def test_the_bare_loop_is_no_way_that_arithmetic_speaks_of():
    assert row_of(speed(found(), FLOPS), BARE)["by parts' times"] is None


def test_with_accumulation_a_share_of_the_optimizer_is_added():
    assert row_of(speed(found(accumulate=10), FLOPS), ENCODED)["pairs/s"] == pytest.approx(3 / 6.1)


def test_parts_tell_their_rate_and_its_share_of_what_the_device_reaches():
    row = row_of(list_parts(found(), FLOPS, rate=3e12), "policy")
    assert (row["ms"], row["TFLOP"], row["TFLOP/s"], row["of the matrix rate"]) == (4000.0, 6.0, 1.5, 0.5)


def test_computed_memory_is_compared_with_what_was_expected():
    table = counted_rows("sd15", [MemoryRow("LoRA", ENCODED, 1.0, 5.0, 4.0)])
    assert table.rows[0]["peak / expected"] == 1.25
    assert "computed" in table.caption


def test_a_table_is_markdown_under_its_caption():
    assert Table("What.", [{"a": 1.0, "b": None}]).markdown() == "What.\n\n| a | b |\n| --- | --- |\n| 1.000 |  |"


@pytest.mark.parametrize(("value", "text"), [(1.23456, "1.235"), (12.3456, "12.35"), (123.456, "123"), ("x", "x")])
def test_numbers_show_what_counts_of_them(value, text):
    assert show_digits(value) == text


def test_a_case_is_told_in_a_line():
    assert told(launched("sdxl", True, 1, torch.device("cpu"))) == (
        "sdxl, LoRA, 1 pair per pass, fp32, gradient checkpointing"
    )
