import json
import sys
from pathlib import Path

import pytest

from diffpo.cli.command import launch
from diffpo.lab.benchmark.measurements import step as benchmark


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
    launch(benchmark.main)


def ratios(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Instead of a measurement."""
    monkeypatch.setattr(benchmark, "encoded_against_bare", lambda *arguments: value)


def test_all_ways_are_compared_and_written(tmp_path: Path, monkeypatch, capsys):
    run(
        monkeypatch,
        f"--output_dir={tmp_path}",
        "--steps=1",
        "--warmup=0",
        "--trained=[lora]",
        "--pairs=[1]",
        "--accumulate=[1]",
        "--sections=[speed]",
    )
    text = (tmp_path / "benchmark.md").read_text()
    assert text.strip() in capsys.readouterr().out
    speed, parts = json.loads((tmp_path / "benchmark.json").read_text())
    ways = [row["way"] for row in speed["rows"]]
    assert ways == ["published way", "ours, pixels", "ours, encoded", "ours, remembered", "bare loop"]
    assert {"ms", "TFLOP", "of the matrix rate"} < parts["rows"][0].keys()


def test_the_guard_lets_a_loop_pass_that_is_as_fast_as_recorded(tmp_path: Path, monkeypatch, capsys):
    ratios(monkeypatch, 1.02)
    run(monkeypatch, f"--record={tmp_path / 'ratios.json'}")
    run(monkeypatch, f"--check={tmp_path / 'ratios.json'}")
    assert capsys.readouterr().out.splitlines()[-1] == "full: 1.020 of the bare loop, lora: 1.020 of the bare loop"


def test_the_guard_fails_in_one_line_that_names_the_case(tmp_path: Path, monkeypatch, capsys):
    ratios(monkeypatch, 1.02)
    run(monkeypatch, f"--record={tmp_path / 'ratios.json'}")
    ratios(monkeypatch, 1.2)
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, f"--check={tmp_path / 'ratios.json'}")
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("error: full: a step takes 1.200 times as long as the bare loop")
