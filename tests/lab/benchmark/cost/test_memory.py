from dataclasses import replace

import pytest

from diffpo.lab.benchmark.cost.counted import FUSED
from diffpo.lab.benchmark.cost.memory import GIB, frozen_networks, largest, options, rows


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 8, 13])
def test_the_largest_batch_is_the_last_that_fits(limit):
    assert largest(lambda pairs: pairs <= limit) == limit


def test_half_precision_halves_the_frozen_networks():
    case = options("tiny")["full"]
    unet = case.sizes.pipeline(case.device).unet
    assert frozen_networks(case).reference == 2 * sum(p.numel() for p in unet.parameters()) / GIB


def test_adapters_need_no_second_network():
    assert frozen_networks(options("tiny")["LoRA"]).reference == 0


def test_our_peak_is_the_published_one_without_what_was_removed(monkeypatch):
    case = replace(options("tiny")["full"], optimizer=FUSED)
    monkeypatch.setattr("diffpo.lab.benchmark.cost.memory.options", lambda shape: {"full": case})
    theirs, *ours = rows("tiny")
    assert theirs.peak == theirs.expected > theirs.kept
    for row in ours:
        assert row.peak <= 1.03 * row.expected < 1.03 * theirs.peak
