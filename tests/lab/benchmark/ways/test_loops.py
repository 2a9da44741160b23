import pytest

from diffpo.core.refusal import Refusal
from diffpo.data.sampler import ProcessShare
from diffpo.lab.benchmark.ways.loops import InTurn, Loop
from diffpo.lab.benchmark.ways.turns import Turns


def test_a_loop_takes_one_step_per_call_and_ends():
    taken = []

    def run(turn):
        for step in range(3):
            turn()
            taken.append(step)

    loop = Loop(run)
    assert taken == []
    loop()
    assert taken == [0]
    loop.end()
    assert taken == [0, 1, 2]


def test_what_fails_in_a_loop_fails_where_it_is_waited_for():
    def run(turn):
        turn()
        raise Refusal("no more pairs")

    loop = Loop(run)
    with pytest.raises(Refusal, match="no more pairs"):
        loop()


def test_pairs_wait_before_each_batch_and_read_the_next_one_in_the_turn_before():
    happened = []
    pairs = Turns({"a": "A"}, {}, 2, lambda: happened.append("read") or 0.0)
    for raw in InTurn(pairs, lambda: happened.append("wait")).batches(ProcessShare(1, 0)):
        happened.append(raw)
    assert happened == ["read", "wait", "A", "read", "read", "wait", "A", "read"]
