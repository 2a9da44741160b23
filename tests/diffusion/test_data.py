from itertools import islice

import pytest
import torch
from tiny import pair_folder

from diffpo.diffusion.data import PairData
from diffpo.diffusion.images import Framing
from diffpo.pairs import Order, Pick
from diffpo.rows import PairRow, RowMap
from diffpo.sources import PairFolder


def opened(folder, **changed):
    settings = {"framing": Framing(16), "caption_dropout": 0.5, "workers": 0} | changed
    return PairData(PairFolder(str(folder)), **settings).open(seed=0)


def test_batches_do_not_depend_on_workers(tmp_path):
    pair_folder(tmp_path)
    order = Order(rows=6, batch=2, seed=0)
    none, two = (list(islice(opened(tmp_path, workers=n).batches(order), 5)) for n in (0, 2))
    for a, b in zip(none, two, strict=True):
        assert (a.row, a.epoch, a.prompts) == (b.row, b.epoch, b.prompts)
        assert torch.equal(a.pixels, b.pixels)


def test_a_row_looks_the_same_in_any_batch(tmp_path):
    pairs = opened(pair_folder(tmp_path), framing=Framing(16, random_crop=True))
    alone = pairs[Pick(3, 2)]
    batch = next(iter(pairs.batches(Order(rows=6, batch=6, seed=0, first=3))))
    assert torch.equal(batch.pixels[:, batch.row.index(2)], alone.pixels)


def test_caption_dropout_empties_both_sides(tmp_path):
    pairs = opened(pair_folder(tmp_path))
    seen = [pairs[Pick(epoch, index)].prompts for epoch in range(20) for index in range(6)]
    assert all(chosen == rejected for chosen, rejected in seen)
    assert 0.35 < sum(chosen == "" for chosen, _ in seen) / len(seen) < 0.65


@pytest.mark.parametrize(("share", "emptied"), [(0.0, 0), (1.0, 6)])
def test_caption_dropout_at_its_ends(tmp_path, share, emptied):
    pairs = opened(pair_folder(tmp_path), caption_dropout=share)
    assert sum(pairs[Pick(0, i)].prompts[0] == "" for i in range(6)) == emptied


def test_a_broken_picture_costs_its_pair_and_is_counted(tmp_path):
    pair_folder(tmp_path)
    (tmp_path / "rejected" / "2.png").write_bytes(b"")
    pairs = opened(tmp_path)
    batches = list(islice(pairs.batches(Order(rows=6, batch=3, seed=0)), 4))
    assert all(2 not in batch.row for batch in batches)
    assert pairs.broken == {2}
    assert "1 with an unreadable picture were passed over: rows [2]" in pairs.report()


def test_only_broken_pictures_is_an_early_error(tmp_path):
    pair_folder(tmp_path, n=2)
    for i in range(2):
        (tmp_path / "chosen" / f"{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="None of 2 pairs in a row could be read.*relative to"):
        opened(tmp_path).first(1)


def test_labels_follow_the_row_maps(tmp_path):
    class Sure(RowMap):
        def __call__(self, row: PairRow, draws):
            from dataclasses import replace

            return replace(row, prob=0.75, weight=2.0, scores=(float(row.id), 0.5))

    batch = opened(pair_folder(tmp_path), rows=[Sure()]).first(3)
    assert batch.label.prob.tolist() == [0.75] * 3
    assert batch.label.weight.tolist() == [2.0] * 3
    assert batch.label.score.tolist() == [[0.0, 1.0, 2.0], [0.5, 0.5, 0.5]]


def test_dropout_must_be_a_share():
    with pytest.raises(ValueError, match=r"share in \[0, 1\], got 20"):
        PairData(PairFolder("x"), caption_dropout=20.0)
