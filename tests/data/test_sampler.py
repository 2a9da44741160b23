from itertools import islice

import numpy as np

from diffpo.data.sampler import Lengths, PairSampler, ProcessShare, Shapes, Users, Visit


def taken(order: PairSampler, n: int) -> list[Visit]:
    return [pick for batch in islice(order, n) for pick in batch]


def test_an_epoch_visits_every_row_once_and_differs_from_the_next():
    picks = taken(PairSampler((7,), ProcessShare(3, 0)), 14)
    epochs = [[pick.index for pick in picks if pick.epoch == epoch] for epoch in range(6)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_processes_share_what_one_process_would_do():
    """Two ranks of batch 2 take together, step by step, what one rank takes in batches of 4."""
    one = taken(PairSampler((9,), ProcessShare(4, 3)), 6)
    ranks = [list(islice(PairSampler((9,), ProcessShare(2, 3, rank, 2)), 6)) for rank in (0, 1)]
    assert one == [pick for step in zip(*ranks, strict=True) for batch in step for pick in batch]


def test_starting_later_is_resuming():
    whole = list(islice(PairSampler((5,), ProcessShare(2, 1)), 8))
    assert list(islice(PairSampler((5,), ProcessShare(2, 1, first=5)), 3)) == whole[5:]


def test_more_rows_in_a_batch_than_in_the_table():
    picks = taken(PairSampler((2,), ProcessShare(5, 0)), 1)
    assert [pick.epoch for pick in picks] == [0, 0, 1, 1, 2]


def test_positions_of_a_batch():
    """Third batch (number 2) of the second of three processes, in batches of four: 2 x 12 + 4."""
    assert ProcessShare(4, 0, rank=1, world=3).positions(2) == range(28, 32)


def test_the_order_of_one_table_is_the_published_one():
    """Runs of before there were several tables resume exactly."""
    first, second = np.random.default_rng((9, 0)).permutation(5), np.random.default_rng((9, 1)).permutation(5)
    picks = taken(PairSampler((5,), ProcessShare(5, 9)), 2)
    assert picks == [Visit(0, i) for i in first] + [Visit(1, i) for i in second]


MIX = ((4, 30), (3.0, 1.0))


def test_mixed_tables_have_epochs_of_their_own():
    sizes, weights = MIX
    picks = taken(PairSampler(sizes, ProcessShare(8, 0), weights), 20)
    small, large = ([(pick.epoch, pick.index) for pick in picks if pick.table == table] for table in (0, 1))
    assert 118 <= len(small) <= 122
    assert len(small) + len(large) == 160
    for visits, size in ((small, 4), (large, 30)):
        assert len(set(visits)) == len(visits)
        assert visits == sorted(visits, key=lambda visit: visit[0])
        assert sorted(visits[:size]) == [(0, i) for i in range(size)]


def test_mixed_tables_are_shared_and_resumed_exactly():
    sizes, weights = MIX
    one = taken(PairSampler(sizes, ProcessShare(4, 3), weights), 6)
    ranks = [list(islice(PairSampler(sizes, ProcessShare(2, 3, rank, 2), weights), 6)) for rank in (0, 1)]
    assert one == [pick for step in zip(*ranks, strict=True) for batch in step for pick in batch]
    assert taken(PairSampler(sizes, ProcessShare(4, 3, first=4), weights), 2) == one[16:]


def test_with_a_cycle_draws_repeat_and_the_order_does_not():
    fresh, fixed = (
        taken(PairSampler((6,), ProcessShare(6, 1)), 6),
        taken(PairSampler((6,), ProcessShare(6, 1), cycle=2), 6),
    )
    assert [pick.index for pick in fixed] == [pick.index for pick in fresh]
    assert [pick.epoch for pick in fixed] == [pick.epoch % 2 for pick in fresh]


SHAPES = Shapes(np.array([0, 1, 0, 2, 0, 1, 0, 0, 1, 0, 1]), together=2)


def test_pairs_of_one_shape_follow_one_another_and_none_is_left_out():
    """6, 4 and 1 pairs in groups of 2: an epoch of 12 visits, in which the lonely pair is visited twice."""
    order = PairSampler((11,), ProcessShare(4, 0), groups=SHAPES)
    assert SHAPES.epoch == 12
    for epoch in range(3):
        picks = taken(order, 9)[epoch * 12 : epoch * 12 + 12]
        assert {pick.epoch for pick in picks} == {epoch}
        assert sorted(pick.index for pick in picks) == sorted([*range(11), 3])
        shapes = SHAPES.of[[pick.index for pick in picks]].reshape(-1, 2)
        assert (shapes[:, 0] == shapes[:, 1]).all()


def test_grouped_pairs_come_in_a_new_order_each_epoch_whatever_the_processes():
    one = taken(PairSampler((11,), ProcessShare(4, 3), groups=SHAPES), 6)
    ranks = [list(islice(PairSampler((11,), ProcessShare(2, 3, rank, 2), groups=SHAPES), 6)) for rank in (0, 1)]
    assert one == [pick for step in zip(*ranks, strict=True) for batch in step for pick in batch]
    assert [pick.index for pick in one[:12]] != [pick.index for pick in one[12:]]


def test_users_are_visited_equally_often_whatever_they_have():
    """User 0 has 7 pairs, of which 3 are visited; user 1 has 2, visited in turn; user 2 has 1."""
    of = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 2])
    order = PairSampler((10,), ProcessShare(9, 0), groups=Users(of, each=3))
    epochs = [[pick.index for pick in batch] for batch in islice(order, 12)]
    for visited in epochs:
        assert np.bincount(of[visited]).tolist() == [3, 3, 3]
        assert len({index for index in visited if of[index] == 0}) == 3
        assert sorted(np.bincount(visited, minlength=10)[7:9]) == [1, 2]
    assert len({tuple(visited) for visited in epochs}) == 12
    assert {index for visited in epochs for index in visited} == set(range(10))


def test_rows_of_similar_length_follow_one_another_and_each_comes_once_an_epoch():
    lengths = np.arange(40) % 10
    picks = taken(PairSampler((40,), ProcessShare(4, 0), groups=Lengths(lengths, together=4)), 20)
    epochs = [[pick.index for pick in picks if pick.epoch == epoch] for epoch in range(2)]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert all(len({lengths[i] for i in epoch[n : n + 4]}) == 1 for epoch in epochs for n in range(0, 40, 4))
    assert epochs[0] != epochs[1]
