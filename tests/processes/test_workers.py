import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import killed_within_training, together
from tiny_text import token_batch

from diffpo.core.refusal import Refusal
from diffpo.processes import workers as module
from diffpo.processes.workers import at_most, bytes_of, find_lost_process, from_workers, require_shared_memory


@pytest.mark.parametrize("workers", [0, 2])
def test_items_come_in_order_and_leave_the_global_generator_alone(workers):
    before = torch.get_rng_state()
    assert [int(item) for item in from_workers(range(5), workers, lambda: 8, batch_size=None)] == [0, 1, 2, 3, 4]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (4, 4), (64, 4), (None, 1)])
def test_no_more_workers_than_cores_start_unasked(monkeypatch, cores, workers):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert at_most(4) == workers


def test_shared_memory_is_asked_for_before_the_first_item(tmp_path, monkeypatch):
    """Docker gives 64 MiB where nothing is said."""
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=64 * 2**20))
    require_shared_memory(4, 8 * 2**20, tmp_path)
    said = r"about 72 MiB of shared memory \(1 processes x 4 workers x 2 batches of 9.0 MiB\), .* has 64 MiB free"
    with pytest.raises(Refusal, match=rf"{said}.* --shm-size=1g \(or --ipc=host\), or set data.workers to fewer or 0"):
        require_shared_memory(4, 9 * 2**20, tmp_path)
    with pytest.raises(Refusal, match="shared memory"):
        next(from_workers(range(5), 2, lambda: 2**30, batch_size=None))
    assert next(from_workers(range(5), 0, lambda: pytest.fail("it was asked"), batch_size=None)) == 0
    require_shared_memory(4, 2**40, tmp_path / "none")


def test_the_size_of_a_batch_is_that_of_its_tensors():
    assert bytes_of(token_batch(b=6)) == 2 * bytes_of(token_batch(b=3)) > 0


class Deadly:
    def __len__(self) -> int:
        return 20

    def __getitem__(self, n: int) -> int:
        if n == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return n


def test_a_worker_that_is_killed_ends_the_run_in_one_line():
    began = time.monotonic()
    with pytest.raises(Refusal, match=r"reads data is gone \(DataLoader worker .*; set data.workers") as said:
        list(from_workers(Deadly(), 2, lambda: 8, batch_size=None))
    assert "\n" not in str(said.value)
    assert time.monotonic() - began < 60


def test_other_errors_are_none_of_those():
    assert find_lost_process(RuntimeError("Connection reset by peer")) is None  # of a single process: a download's
    assert find_lost_process(RuntimeError("CUDA out of memory")) is None
    scarce = find_lost_process(RuntimeError("DataLoader worker 3: bus error. insufficient shared memory"))
    assert "got no shared memory" in str(scarce)


def test_a_process_that_is_killed_ends_the_others_in_one_line(tmp_path):
    began = time.monotonic()
    assert together(2, killed_within_training, tmp_path) == [1, -signal.SIGKILL]
    assert time.monotonic() - began < 120
    (line,) = (tmp_path / "said").read_text().splitlines()
    assert line.startswith("error: Another process of this run is gone (")
