import mmap
from pathlib import Path

import numpy as np
import pytest

from diffpo.data.sampler import ProcessShare
from diffpo.lab.benchmark.measurements.scale import BATCH, WAYS, data, memory, write_pairs


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scale") / "pairs"
    write_pairs(folder, 200, 3)
    return folder


def test_the_pairs_have_winners_and_ties_and_a_caption_each(pairs):
    table = data(pairs, "table").open().tables[0]
    assert len(table) + table.dropped["DropTies"] == 200
    assert 5 <= table.dropped["DropTies"] <= 40
    assert len({table[i].prompts[0] for i in range(len(table))}) == len(table)


@pytest.mark.parametrize("way", WAYS)
def test_both_ways_give_batches_of_pictures(pairs, way):
    batch = next(iter(data(pairs, way).open().batches(ProcessShare(BATCH, 0))))
    assert batch.pixels.shape == (2, BATCH, 3, 32, 32)


def test_memory_counts_what_is_allocated_and_not_what_is_mapped(tmp_path):
    np.save(tmp_path / "mapped.npy", np.ones(2**24))
    before = memory()
    assert np.load(tmp_path / "mapped.npy", mmap_mode="r").sum() == 2**24
    assert memory() - before < 16
    # Fresh pages: malloc would hand out a hole that earlier tests of this process left, and nothing would grow.
    with mmap.mmap(-1, 2**27, flags=mmap.MAP_PRIVATE) as held:
        held.write(b"1" * len(held))
        assert 120 < memory() - before < 144
