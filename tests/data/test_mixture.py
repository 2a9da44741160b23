from itertools import islice

import numpy as np
import pytest

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.data.mixture import BLOCK, GOLDEN, Mixed, interleave_sources

SOURCES = [Columns("a"), Columns("b")]


def test_the_constant_is_the_golden_ratio():
    assert abs(GOLDEN / 2**64 - (5**0.5 - 1) / 2) < 1e-15


def test_one_source_has_every_turn():
    assert list(islice(interleave_sources([3.0], 5), 3)) == [(0, 5), (0, 6), (0, 7)]


def test_turns_by_hand():
    """Multiples of 0.618 modulo 1 are 0, 0.618, 0.236, 0.854, 0.472, 0.090; the second source has [0.5, 1)."""
    assert list(islice(interleave_sources([1.0, 1.0]), 6)) == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize("weights", [(0.7, 0.3), (5.0, 3.0, 2.0)])
def test_any_ten_turns_in_a_row_have_nearly_the_right_shares(weights):
    taken = np.array([source for source, _ in islice(interleave_sources(weights), 5000)])
    for source, weight in enumerate(weights):
        counts = np.convolve(taken == source, np.ones(10), "valid")
        assert np.abs(counts - 10 * weight / sum(weights)).max() < 2
    assert np.abs(np.bincount(taken) / 5000 - np.array(weights) / sum(weights)).max() < 1e-3


@pytest.mark.parametrize("begin", [7, BLOCK, 2 * BLOCK + 5])
def test_starting_later_is_resuming(begin):
    assert list(islice(interleave_sources([2.0, 1.0], begin), 4)) == list(
        islice(interleave_sources([2.0, 1.0]), begin, begin + 4)
    )


def test_shares_are_the_weights_or_else_the_sizes():
    assert Mixed(SOURCES, [3.0, 1.0]).shares([10, 1000]) == (3.0, 1.0)
    assert Mixed(SOURCES).shares([10, 1000]) == (10.0, 1000.0)
    with pytest.raises(Refusal, match="Streams do not know .*; give data.source.weights to mix them"):
        Mixed(SOURCES).shares([None, None])


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, 1.0, 1.0]])
def test_each_source_needs_a_positive_weight(weights):
    with pytest.raises(Refusal, match="a positive weight for each, got 2 and"):
        Mixed(SOURCES, weights)


def test_nothing_cannot_be_mixed():
    with pytest.raises(Refusal, match="needs sources"):
        Mixed([])
