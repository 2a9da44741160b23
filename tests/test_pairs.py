from itertools import islice

import datasets
import numpy as np
import pytest

from diffpo.pairs import Order, PairTable, Pick
from diffpo.rows import DropPromptless, DropTies
from diffpo.sources import Columns


def taken(order: Order, n: int) -> list[Pick]:
    return [pick for batch in islice(order, n) for pick in batch]


def test_an_epoch_visits_every_row_once_and_differs_from_the_next():
    picks = taken(Order(rows=7, batch=3, seed=0), 14)
    epochs = [[pick.index for pick in picks if pick.epoch == epoch] for epoch in range(6)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_processes_share_what_one_process_would_do():
    """Two ranks of batch 2 take together, step by step, what one rank takes in batches of 4."""
    one = taken(Order(rows=9, batch=4, seed=3), 6)
    ranks = [list(islice(Order(rows=9, batch=2, seed=3, rank=rank, world=2), 6)) for rank in (0, 1)]
    assert one == [pick for step in zip(*ranks, strict=True) for batch in step for pick in batch]


def test_starting_later_is_resuming():
    whole = list(islice(Order(rows=5, batch=2, seed=1), 8))
    assert list(islice(Order(rows=5, batch=2, seed=1, first=5), 3)) == whole[5:]


def test_more_rows_in_a_batch_than_in_the_table():
    picks = taken(Order(rows=2, batch=5, seed=0), 1)
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
