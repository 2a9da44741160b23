import json
import sys
from pathlib import Path

import torch

from diffpo.lab.benchmark.measurements import vocabulary as benchmark_vocabulary


def test_both_ways_compute_the_same():
    model, batch = benchmark_vocabulary.language_model(50, 8), benchmark_vocabulary.pairs(50, 16)
    plain, ours = (way(model, batch) for way in benchmark_vocabulary.WAYS.values())
    assert torch.allclose(plain, ours, atol=1e-5)
    assert ours.count_nonzero() == 2 * 6


def test_a_way_is_measured_with_its_gradients():
    found = benchmark_vocabulary.measure_pass("in pieces", 1000, 16, 8)
    assert found["mib"] >= 0
    assert found["seconds"] > 0


def test_the_best_of_all_turns_is_compared_and_written(tmp_path: Path, monkeypatch, capsys):
    turns = iter([(90.0, 1.0), (30.0, 2.0), (100.0, 1.5), (27.0, 3.0)])  # plain and ours, in turn
    monkeypatch.setattr(
        benchmark_vocabulary,
        "measure_in_child",
        lambda *arguments: dict(zip(("mib", "seconds"), next(turns), strict=True)),
    )
    monkeypatch.setattr(sys, "argv", ["benchmark_vocabulary.py", f"--output={tmp_path / 'new' / 'found.json'}"])
    benchmark_vocabulary.main()
    report = json.loads((tmp_path / "new" / "found.json").read_text())
    assert (report["mib"], report["seconds"]) == (27 / 90, 2.0)
    assert capsys.readouterr().out.splitlines()[-1].split() == ["ratio", "0.30", "2.00"]
