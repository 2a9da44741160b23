import json
import sys
from pathlib import Path

import pytest

from diffpo.cli.command import launch
from diffpo.lab.benchmark.measurements import negative as benchmark_negative


def test_every_way_stands_beside_stock_guidance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    arguments = [f"--output_dir={tmp_path}", "--rounds=1", "--warmup=0", "--steps=1", "--batch_sizes=[1]"]
    monkeypatch.setattr(sys, "argv", ["benchmark_negative.py", *arguments])
    launch(benchmark_negative.main)
    assert (tmp_path / "negative.md").read_text().strip() in capsys.readouterr().out
    stock, *others = json.loads((tmp_path / "negative.json").read_text())["rows"]
    assert [stock[name] for name in ("ratio", "low", "high")] == [1.0, 1.0, 1.0]
    for row in others:
        assert row["ratio"] == pytest.approx(row["s/picture"] / stock["s/picture"])
