import json
from itertools import islice

import datasets
import numpy as np
import pytest

from diffpo.mixing import Mixed
from diffpo.pairs import Order, PairTable, Pick, Share, open_tables
from diffpo.rows import DropPromptless, DropTies, ScoreLabel, Weight
from diffpo.sources import Columns
from diffpo.unpaired import Unpaired


def taken(order: Order, n: int) -> list[Pick]:
    return [pick for batch in islice(order, n) for pick in batch]


def test_an_epoch_visits_every_row_once_and_differs_from_the_next():
    picks = taken(Order((7,), Share(3, 0)), 14)
    epochs = [[pick.index for pick in picks if pick.epoch == epoch] for epoch in range(6)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_processes_share_what_one_process_would_do():
    """Two ranks of batch 2 take together, step by step, what one rank takes in batches of 4."""
    one = taken(Order((9,), Share(4, 3)), 6)
    ranks = [list(islice(Order((9,), Share(2, 3, rank, 2)), 6)) for rank in (0, 1)]
    assert one == [pick for step in zip(*ranks, strict=True) for batch in step for pick in batch]


def test_starting_later_is_resuming():
    whole = list(islice(Order((5,), Share(2, 1)), 8))
    assert list(islice(Order((5,), Share(2, 1, first=5)), 3)) == whole[5:]


def test_more_rows_in_a_batch_than_in_the_table():
    picks = taken(Order((2,), Share(5, 0)), 1)
    assert [pick.epoch for pick in picks] == [0, 0, 1, 1, 2]


def table_of(tmp_path, prompts):
    data = {"prompt": prompts, "chosen": ["w"] * len(prompts), "rejected": ["l"] * len(prompts)}
    datasets.Dataset.from_dict(data).to_parquet(tmp_path / "t.parquet")
    return Columns(str(tmp_path / "t.parquet"))


def test_null_prompts_are_an_early_error_with_a_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"2 of 3 rows have no prompt .* the first is row 0; .*DropPromptless"):
        PairTable(table_of(tmp_path, [None, "a", None]), [DropTies()], seed=0)
    assert len(PairTable(table_of(tmp_path, [None, "a", None]), [DropPromptless()], seed=0)) == 1


def test_an_empty_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not hold a table of pairs that can be read: .* no data"):
        PairTable(table_of(tmp_path, []), [], seed=0)


def test_kept_rows_cost_one_integer_each(tmp_path):
    table = PairTable(table_of(tmp_path, ["a"] * 5), [], seed=0)
    assert table.kept.dtype == np.int64
    assert table.kept.nbytes == 5 * 8


def test_positions_of_a_batch():
    """Third batch (number 2) of the second of three processes, in batches of four: 2 x 12 + 4."""
    assert Share(4, 0, rank=1, world=3).positions(2) == range(28, 32)


def test_the_order_of_one_table_is_the_published_one():
    """Runs of before there were several tables resume exactly."""
    first, second = np.random.default_rng((9, 0)).permutation(5), np.random.default_rng((9, 1)).permutation(5)
    picks = taken(Order((5,), Share(5, 9)), 2)
    assert picks == [Pick(0, i) for i in first] + [Pick(1, i) for i in second]


MIX = ((4, 30), (3.0, 1.0))


def test_mixed_tables_have_epochs_of_their_own():
    sizes, weights = MIX
    picks = taken(Order(sizes, Share(8, 0), weights), 20)
    small, large = ([(pick.epoch, pick.index) for pick in picks if pick.table == table] for table in (0, 1))
    assert 118 <= len(small) <= 122
    assert len(small) + len(large) == 160
    for visits, size in ((small, 4), (large, 30)):
        assert len(set(visits)) == len(visits)
        assert visits == sorted(visits, key=lambda visit: visit[0])
        assert sorted(visits[:size]) == [(0, i) for i in range(size)]


def test_mixed_tables_are_shared_and_resumed_exactly():
    sizes, weights = MIX
    one = taken(Order(sizes, Share(4, 3), weights), 6)
    ranks = [list(islice(Order(sizes, Share(2, 3, rank, 2), weights), 6)) for rank in (0, 1)]
    assert one == [pick for step in zip(*ranks, strict=True) for batch in step for pick in batch]
    assert taken(Order(sizes, Share(4, 3, first=4), weights), 2) == one[16:]


def mixed(tmp_path, *sources):
    return Mixed([source(tmp_path / str(i)) for i, source in enumerate(sources)])


def pairs_of(n, **columns):
    def write(folder):
        folder.mkdir(parents=True)
        data = {"prompt": ["a"] * n, "chosen": ["w"] * n, "rejected": ["l"] * n} | columns
        datasets.Dataset.from_dict(data).to_parquet(folder / "t.parquet")
        return Columns(str(folder / "t.parquet"))

    return write


def test_ids_count_on_from_table_to_table_whatever_was_dropped(tmp_path):
    source = mixed(tmp_path, pairs_of(3, weight=[1.0, 2.0, 3.0]), pairs_of(2, weight=[4.0, 5.0]))
    first, second = open_tables(source, [Weight()], seed=0)
    assert [row.id for table in (first, second) for row in (table[i] for i in range(len(table)))] == [0, 1, 2, 3, 4]
    assert second[1].weight == 5.0
    assert second[1].candidates[0].folder == tmp_path / "1"


def test_a_column_that_one_of_several_sources_lacks(tmp_path):
    source = mixed(tmp_path, pairs_of(1, weight=[1.0]), pairs_of(1))
    with pytest.raises(
        ValueError, match=r"Of the sources .* Columns\(path='.*/1/t.parquet'.* Weight needs column 'weight'"
    ):
        open_tables(source, [Weight()], seed=0)


def test_rows_of_different_numbers_of_candidates_do_not_mix(tmp_path):
    def unpaired(folder):
        folder.mkdir()
        data = {"prompt": ["a"], "image": ["w"], "label": [True]}
        datasets.Dataset.from_dict(data).to_parquet(folder / "t.parquet")
        return Unpaired(str(folder / "t.parquet"))

    with pytest.raises(
        ValueError, match="equally many candidates per row, here are Columns 2, Unpaired 1; train apart"
    ):
        open_tables(mixed(tmp_path, pairs_of(1), unpaired), [], seed=0)


def scored(version):
    """Pairs that scripts/score_pairs.py wrote."""

    def write(folder):
        source = pairs_of(1, score_chosen=[1.0], score_rejected=[0.5])(folder)
        identity = {"scorer": "hpsv2", "model_id": "a", "version": version, "raw": False}
        (folder / "scores.json").write_text(json.dumps(identity | {"min": 0.5, "max": 1.0, "count": 2}))
        return source

    return write


def test_labels_are_not_made_of_scores_of_different_scorers(tmp_path):
    with pytest.raises(ValueError, match="'version': 'v2.0'.* and .*'version': 'v2.1'.*, whose ranges differ"):
        open_tables(mixed(tmp_path / "a", scored("v2.0"), scored("v2.1")), [ScoreLabel()], seed=0)
    assert len(open_tables(mixed(tmp_path / "b", scored("v2.1"), scored("v2.1")), [ScoreLabel()], seed=0)) == 2
    assert len(open_tables(mixed(tmp_path / "c", scored("v2.0"), scored("v2.1")), [DropTies()], seed=0)) == 2
