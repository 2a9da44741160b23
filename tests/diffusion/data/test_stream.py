import shutil
from itertools import islice

import pytest
import torch
from shards import pickapic_shards
from tiny import pair_folder

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import PairFolder, PickAPicShards
from diffpo.data.mixture import Mixed
from diffpo.data.rows import DropTies
from diffpo.data.sampler import ProcessShare
from diffpo.data.streams import Stream
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData


@pytest.fixture
def source(tmp_path):
    """Eleven pairs in three shards, two of them ties."""
    labels = (("1", "0", "0.5", "1"), ("0", "1", "1"), ("0", "0.5", "1", "1"))
    return PickAPicShards(str(pickapic_shards(tmp_path / "s", labels)))


def opened(source, workers=0, **changed):
    settings = {"framing": Framing(16, random_crop=True), "workers": workers, "stream": Stream(4)}
    return PairData(source, **settings | changed).open(seed=0)


def same(a, b):
    return (a.row, a.epoch, a.prompts) == (b.row, b.epoch, b.prompts) and torch.equal(a.pixels, b.pixels)


def test_batches_depend_neither_on_workers_nor_on_a_restart(source):
    whole = list(islice(opened(source).batches(ProcessShare(2, 0)), 8))
    for workers, first in ((2, 0), (0, 3), (2, 3)):
        again = list(islice(opened(source, workers).batches(ProcessShare(2, 0, first=first)), 8 - first))
        assert all(map(same, again, whole[first:]))
        assert len(again) == 8 - first


def test_processes_share_what_one_process_would_do(source):
    one = list(islice(opened(source).batches(ProcessShare(4, 0)), 4))
    ranks = [list(islice(opened(source, 2).batches(ProcessShare(2, 0, rank, 2)), 4)) for rank in (0, 1)]
    for whole, *parts in zip(one, *ranks, strict=True):
        assert whole.row == parts[0].row + parts[1].row
        assert torch.equal(whole.pixels, torch.cat([part.pixels for part in parts], dim=1))


def test_a_sample_of_a_stream_is_read_from_its_beginning(source):
    pairs = opened(source, rows=[DropTies()])
    assert pairs.sizes == {2}
    assert len(pairs.sample()) == 64  # the nine that are kept, again and again
    assert {row.id for row in pairs.sample()} <= set(range(11))
    assert same(pairs.first(3), opened(source).first(3))


def test_the_first_pairs_are_those_of_the_first_batch(source):
    assert same(opened(source).first(3), next(iter(opened(source).batches(ProcessShare(3, 0)))))


def test_a_stream_does_not_know_its_size_and_reports_what_it_gave(source):
    pairs = opened(source, 2)
    for _ in islice(pairs.batches(ProcessShare(3, 0)), 3):
        pass
    dropped = pairs.tally["DropTies"]
    assert pairs.size is None
    assert pairs.report() == f"Of the stream, {9 + dropped} rows were read, DropTies dropped {dropped}."


def test_a_broken_picture_costs_its_pair_and_the_next_takes_its_place(tmp_path):
    pair_folder(tmp_path)
    (tmp_path / "rejected" / "2.png").write_bytes(b"")
    source = PairFolder(str(tmp_path))
    pairs, order = opened(source), opened(source, rows=[])
    visits = [visit.row for visit in islice(order.streams[0].visits(), 12)]
    seen = [row for batch in islice(pairs.batches(ProcessShare(3, 0)), 4) for row in batch.row]
    broken = [i for i, row in enumerate(visits) if row.prompts[0].endswith("2")]
    assert seen == [visits[i + 1].id if i in broken else visits[i].id for i in range(12)]
    assert len(pairs.seen.broken) == 2
    assert "2 with an unreadable picture were passed over" in pairs.report()


def test_a_stream_of_broken_pictures_is_an_error(tmp_path):
    pair_folder(tmp_path, n=2)
    for i in range(2):
        (tmp_path / "chosen" / f"{i}.png").write_bytes(b"")
    with pytest.raises(Refusal, match="^None of 100 pairs in a row could be read.*relative to"):
        opened(PairFolder(str(tmp_path))).first(1)


def test_mixed_streams_are_exact_too(tmp_path, source):
    mixed = Mixed([source, PairFolder(str(pair_folder(tmp_path / "f")))], [3.0, 1.0])
    whole = list(islice(opened(mixed).batches(ProcessShare(4, 0)), 5))
    assert all(sum(row % 2 for row in batch.row) in (0, 1, 2) for batch in whole)
    assert sum(row % 2 for batch in whole for row in batch.row) in (4, 5, 6)
    again = list(islice(opened(mixed, 2).batches(ProcessShare(4, 0, first=2)), 3))
    assert all(map(same, again, whole[2:]))


def test_ties_are_dropped_and_counted_once_per_visit(source):
    pairs = opened(source, rows=[DropTies()])
    batches = list(islice(pairs.batches(ProcessShare(9, 0)), 2))
    assert [set(batch.epoch) for batch in batches] == [{0}, {1}]
    assert all((batch.label.prob == 1).all() for batch in batches)


def test_a_pair_of_one_picture_is_passed_over_and_counted(tmp_path):
    pair_folder(tmp_path)
    shutil.copy(tmp_path / "chosen" / "2.png", tmp_path / "rejected" / "2.png")
    pairs = opened(PairFolder(str(tmp_path)))
    for _ in islice(pairs.batches(ProcessShare(3, 0)), 4):
        pass
    assert len(pairs.seen.identical) == 2
    assert ", 2 with the same picture on all sides were passed over" in pairs.report()
