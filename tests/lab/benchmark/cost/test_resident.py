import mmap
import time

import torch

from diffpo.lab.benchmark.cost.resident import measure_peak, sample_memory, until_last
from diffpo.lab.benchmark.ways.case import launched
from diffpo.lab.benchmark.ways.ours import REMEMBERED


def test_what_is_taken_for_a_moment_is_seen():
    # Fresh pages: malloc would hand out a hole that earlier tests of this process left, and nothing would grow.
    with sample_memory() as sizes, mmap.mmap(-1, 64 * 2**20) as taken:
        taken.write(b"1" * len(taken))
        time.sleep(0.05)
    assert max(sizes) - sizes[0] >= 60 * 2**20


def test_only_the_last_step_is_not_forgotten():
    forgotten = []
    clock = until_last(2, lambda: forgotten.append(1))
    counts = []
    for _ in range(4):
        clock()
        counts.append(len(forgotten))
    assert counts == [1, 2, 3, 3]


def test_a_way_is_measured_in_a_process_of_its_own():
    assert 0.01 < measure_peak(REMEMBERED, launched("tiny", True, 1, torch.device("cpu"))) < 1
