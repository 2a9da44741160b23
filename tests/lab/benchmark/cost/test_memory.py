from dataclasses import replace

import pytest

from diffpo.lab.benchmark.cost.counted import FUSED, Counted, counted
from diffpo.lab.benchmark.cost.memory import GIB, frozen_networks, largest, options, rows
from diffpo.lab.benchmark.ways.ours import ENCODED
from diffpo.lab.benchmark.ways.published import PUBLISHED


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


def test_one_side_at_a_time_has_rows_of_its_own(monkeypatch):
    """Beside the option that differs in nothing else; the published way, which both share, is not counted here."""
    cases = options("tiny")
    both, one = cases["LoRA, checkpointing"], cases["LoRA, checkpointing, one side at a time"]
    assert vars(one) == vars(both) | {"one_side_at_a_time": True}
    named = {"both": replace(both, pairs=4), "one": replace(one, pairs=4)}

    def count(way, case):
        return Counted(GIB, 2 * GIB) if way == PUBLISHED else counted(way, case, steps=1)

    monkeypatch.setattr("diffpo.lab.benchmark.cost.memory.options", lambda shape: named)
    monkeypatch.setattr("diffpo.lab.benchmark.cost.memory.counted", count)
    _, ours, frugal = rows("tiny")
    assert (ours.way, frugal.way) == (ENCODED, ENCODED)
    assert frugal.kept == ours.kept
    assert frugal.expected == ours.expected
    assert frugal.peak - frugal.kept < 0.75 * (ours.peak - ours.kept)
