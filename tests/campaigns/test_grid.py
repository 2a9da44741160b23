import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from campaigns.programs import Program, begin_anew
from campaigns.worlds import Work, left_in, works

RUNS = ("sft-0", "guarded-0")


def grid(root: Path) -> Work:
    """Two runs at a time of the full training."""
    own = [word for word in works(root)["full training"].arguments if not word.startswith("--config=")]
    methods = {"sft": ["--objective=diffpo.diffusion.methods.SFT"], "guarded": []}
    plan = {"config": "configs/quickstart.yaml", "also": own, "methods": methods, "seeds": [0], "baseline": "sft"}
    (root / "grid.yaml").write_text(yaml.safe_dump(plan))
    return Work("grid", "evidence.py", (f"--grid={root / 'grid.yaml'}", "--record=null"), root / "grid")


def results(folder: Path) -> dict[str, Any]:
    found = {
        f"{run}/{name}": left for run in RUNS for name, left in left_in(folder / run).items() if name != "log.txt"
    }
    return found | {"table": (folder / "table.md").read_text()}


@pytest.mark.release
def test_a_grid_that_gets_a_signal_ends_after_its_runs_and_goes_on_to_the_same_table(tmp_path):
    work = grid(tmp_path)
    begin_anew()
    program = Program(work)
    while not all((work.folder / run / "metrics.jsonl").exists() for run in RUNS):
        time.sleep(0.05)
    os.kill(program.process.pid, signal.SIGTERM)
    hit = program.end()
    assert (hit.code, hit.is_bare) == (128 + signal.SIGTERM, False), hit.said
    assert "To go on: " in hit.said
    for run in RUNS:
        said = (work.folder / run / "log.txt").read_text()
        assert "Stopped by SIGTERM." in said
        assert "Traceback" not in said
        assert not (work.folder / run / "report.json").exists()
        assert list((work.folder / run).glob("checkpoint-*"))
    assert Program(work).end().code == 0
    stopped = results(work.folder)
    work.folder.rename(tmp_path / "stopped")
    assert Program(work).end().code == 0
    assert stopped == results(work.folder)
