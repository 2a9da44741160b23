import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl")

from diffpo.cli.command import launch
from diffpo.lab.benchmark.measurements import text as benchmark_text
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
