import pytest
import torch

from diffpo.workers import at_most, from_workers


@pytest.mark.parametrize("workers", [0, 2])
def test_items_come_in_order_and_leave_the_global_generator_alone(workers):
    before = torch.get_rng_state()
    assert [int(item) for item in from_workers(range(5), workers, batch_size=None)] == [0, 1, 2, 3, 4]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (4, 4), (64, 4), (None, 1)])
def test_no_more_workers_than_cores_start_unasked(monkeypatch, cores, workers):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert at_most(4) == workers
