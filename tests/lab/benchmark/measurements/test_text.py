import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("trl")

from diffpo.cli.command import launch
from diffpo.lab.benchmark.measurements import text as benchmark_text
from diffpo.lab.benchmark.measurements.text import interval
from diffpo.lab.benchmark.ways.texts import OURS, THEIRS


def test_both_ways_are_measured_and_written(tmp_path: Path, monkeypatch, capsys):
    table = tmp_path / "speed.json"
    arguments = ["--shapes=[micro]", "--tokens=12", "--prompt=4", "--rounds=1", "--warmup=0", "--memory=false"]
    monkeypatch.setattr(sys, "argv", ["benchmark_text.py", *arguments, f"--output={table}"])
    launch(benchmark_text.main)
    rows = json.loads(table.read_text())["rows"]
    assert [(row["reference"], row["way"]) for row in rows] == [
        (reference, way) for reference in ("in each step", "precomputed") for way in (THEIRS, OURS)
    ]
    assert "| micro | precomputed | ours |" in capsys.readouterr().out


def test_one_disturbed_round_does_not_move_the_ratio():
    middle, low, high = interval(np.array([1.1] * 9 + [50.0]))
    assert (middle, low, high) == pytest.approx((1.1, 1.1, 1.1))
