import math

import pytest
import torch
from tqdm import tqdm

from diffpo.core.refusal import Refusal
from diffpo.train.progress import Progress
from diffpo.train.run import FitConfig, open_run


@pytest.fixture
def progress(tmp_path):
    return Progress(open_run(FitConfig(steps=9, batch_size=4), tmp_path), tqdm(disable=True), 3)


def test_what_was_measured_is_read_once_for_a_step(progress, tmp_path):
    progress.meter.add_number("loss", torch.tensor(2.0))
    progress.read(5, 0.1)
    progress.meter.add_number("loss", torch.tensor(7.0))
    progress.read(5, 0.1)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_loss_that_is_not_finite_is_refused(progress):
    progress.meter.add_number("loss", torch.tensor(math.inf))
    with pytest.raises(Refusal, match="loss stopped being finite within the 10 steps before 4"):
        progress.read(4, 0.1)


def test_the_speed_is_that_of_training_alone(progress, monkeypatch):
    times = iter([20.0, 100.0, 110.0])
    progress._began = 10.0
    monkeypatch.setattr("diffpo.train.progress.time.perf_counter", lambda: next(times))
    logged = []
    monkeypatch.setattr(type(progress.run), "log", lambda run, metrics, *_: logged.append(metrics))
    with progress.paused():
        pass
    progress.meter.add_number("loss", torch.tensor(2.0))
    progress.read(8, 0.1)
    assert logged == [{"loss": 2.0, "lr": 0.1, "pairs_per_second": 1.0}]
