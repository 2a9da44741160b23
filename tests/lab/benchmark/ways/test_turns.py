import numpy as np
import pytest
import torch

from diffpo.data.sampler import ProcessShare
from diffpo.lab.benchmark.ways.turns import Turns, bootstrap_median, clock_of, in_turn, ratio


class Time:
    """A clock that work moves on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


def test_each_way_is_charged_for_its_own_work():
    time = Time()
    steps = {"slow": lambda: time.work(3.0), "fast": lambda: time.work(1.0)}
    assert in_turn(steps, 4, time) == {"slow": [3.0] * 4, "fast": [1.0] * 4}


def test_what_the_loop_does_with_a_batch_is_charged_to_its_way():
    time = Time()
    turns = Turns({"a": "A", "b": "B"}, {"other": lambda: time.work(5.0)}, 2, time)
    for raw in turns.batches(ProcessShare(1, 0)):
        time.work({"A": 1.0, "B": 2.0}[raw])
    assert turns.seconds == {"a": [1.0] * 2, "b": [2.0] * 2, "other": [5.0] * 2}


def test_ways_take_their_turns_round_by_round():
    taken = []
    in_turn({name: lambda name=name: taken.append(name) for name in "ab"}, 3, lambda: 0.0)
    assert taken == list("ababab")


def test_one_disturbed_round_does_not_move_the_ratio():
    assert ratio([2.0, 2.0, 50.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0, 90.0]) == pytest.approx(2.0)


def test_the_clock_goes_forward():
    clock = clock_of(torch.device("cpu"))
    assert clock() <= clock()


def test_the_interval_of_equal_rounds_is_a_point():
    assert bootstrap_median(np.full(5, 1.5)) == (1.5, 1.5, 1.5)


def test_one_disturbed_round_does_not_move_the_interval():
    assert bootstrap_median(np.array([1.1] * 9 + [50.0])) == pytest.approx((1.1, 1.1, 1.1))
