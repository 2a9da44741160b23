import json
import sys
from pathlib import Path

import pytest

from diffpo.cli.command import launch
from diffpo.lab.benchmark.measurements import inversion as benchmark_inversion


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark_inversion.py", *arguments])
    launch(benchmark_inversion.main)


def test_ways_stand_beside_their_arithmetic(tmp_path: Path, monkeypatch, capsys):
    run(monkeypatch, f"--output_dir={tmp_path}", "--rounds=1", "--warmup=0", "--pairs=1", "--ways=[InPO]")
    text = (tmp_path / "inversion.md").read_text()
    assert text.strip() in capsys.readouterr().out
    plain, inverted = json.loads((tmp_path / "inversion.json").read_text())["rows"]
    assert (plain["way"], plain["measured"], plain["released code"]) == ("DPO", 1.0, None)
    assert inverted["expected, 1 : 2.63"] == pytest.approx(9.13 / 3.63)
    assert inverted["released code"] == pytest.approx(10.03 / 3.63)
    assert inverted["measured / by rows"] == pytest.approx(inverted["measured"] / inverted["by rows"])


def test_a_way_that_is_not_known_is_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "--ways=[InPo]")
    assert capsys.readouterr().err.startswith("error: No ways are called ['InPo']; choose among ['DPO', 'InPO'")
