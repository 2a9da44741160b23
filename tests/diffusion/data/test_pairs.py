import shutil
from dataclasses import replace
from itertools import islice

import datasets
import numpy as np
import pytest
import torch
from shards import png
from tiny import pair_folder

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns, PairFolder
from diffpo.data.mixture import Mixed
from diffpo.data.rows import ForTraining, ForValidation, PairRow, RowMap
from diffpo.data.sampler import ProcessShare, Visit
from diffpo.data.streams import Stream
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.evaluation.held_out import HeldOut


def opened(folder, **changed):
    settings = {"framing": Framing(16), "caption_dropout": 0.5, "workers": 0} | changed
    return PairData(PairFolder(str(folder)), **settings).open(seed=0)


def test_batches_do_not_depend_on_workers(tmp_path):
    pair_folder(tmp_path)
    none, two = (list(islice(opened(tmp_path, workers=n).batches(ProcessShare(2, 0)), 5)) for n in (0, 2))
    for a, b in zip(none, two, strict=True):
        assert (a.row, a.epoch, a.prompts) == (b.row, b.epoch, b.prompts)
        assert torch.equal(a.pixels, b.pixels)


def test_a_row_looks_the_same_in_any_batch(tmp_path):
    pairs = opened(pair_folder(tmp_path), framing=Framing(16, random_crop=True))
    alone = pairs[Visit(3, 2)]
    batch = next(iter(pairs.batches(ProcessShare(6, 0, first=3))))
    assert torch.equal(batch.pixels[:, batch.row.index(2)], alone.view.pixels)


def test_caption_dropout_empties_both_sides(tmp_path):
    pairs = opened(pair_folder(tmp_path))
    seen = [pairs[Visit(epoch, index)].prompts for epoch in range(20) for index in range(6)]
    assert all(chosen == rejected for chosen, rejected in seen)
    assert 0.35 < sum(chosen == "" for chosen, _ in seen) / len(seen) < 0.65


@pytest.mark.parametrize(("share", "emptied"), [(0.0, 0), (1.0, 6)])
def test_caption_dropout_at_its_ends(tmp_path, share, emptied):
    pairs = opened(pair_folder(tmp_path), caption_dropout=share)
    assert sum(pairs[Visit(0, i)].prompts[0] == "" for i in range(6)) == emptied


def test_a_broken_picture_costs_its_pair_and_is_counted(tmp_path):
    pair_folder(tmp_path)
    (tmp_path / "rejected" / "2.png").write_bytes(b"")
    pairs = opened(tmp_path)
    batches = list(islice(pairs.batches(ProcessShare(3, 0)), 4))
    assert all(2 not in batch.row for batch in batches)
    assert {row for _, row in pairs.seen.broken} == {2}
    assert "1 with an unreadable picture were passed over: rows [2]" in pairs.report()


def test_only_broken_pictures_is_an_early_error(tmp_path):
    pair_folder(tmp_path, n=2)
    for i in range(2):
        (tmp_path / "chosen" / f"{i}.png").write_bytes(b"")
    with pytest.raises(Refusal, match="None of 2 pairs in a row could be read.*relative to"):
        opened(tmp_path).first(1)


def test_labels_follow_the_row_maps(tmp_path):
    class Sure(RowMap):
        def __call__(self, row: PairRow, draws):
            return replace(row, prob=0.75, weight=2.0, scores=(float(row.id), 0.5))

    batch = opened(pair_folder(tmp_path), rows=[Sure()]).first(3)
    assert batch.label.prob.tolist() == [0.75] * 3
    assert batch.label.weight.tolist() == [2.0] * 3
    assert batch.label.score.tolist() == [[0.0, 1.0, 2.0], [0.5, 0.5, 0.5]]


def test_dropout_must_be_a_share():
    with pytest.raises(Refusal, match=r"share in \[0, 1\], got 20"):
        PairData(PairFolder("x"), caption_dropout=20.0)


def test_mixed_sources_fill_every_batch_and_replace_broken_pairs_from_their_own(tmp_path):
    folders = [pair_folder(tmp_path / name, n) for name, n in (("a", 3), ("b", 9))]
    (folders[1] / "chosen" / "4.png").write_bytes(b"")
    source = Mixed([PairFolder(str(folder)) for folder in folders], [1.0, 1.0])
    pairs = PairData(source, framing=Framing(16), workers=0).open(0)
    batches = list(islice(pairs.batches(ProcessShare(8, 0)), 6))
    assert pairs.size == 12
    assert pairs.row_ids.tolist() == list(range(12))
    assert all(3 <= sum(row < 3 for row in batch.row) <= 5 for batch in batches)
    assert {row for _, row in pairs.seen.broken} == {3 + 4}
    assert {row for batch in batches for row in batch.row} == {*range(12)} - {7}
    assert "12 of 12 rows were kept; 1 with an unreadable picture were passed over: rows [7]." in pairs.report()


def test_mixed_sources_are_shared_and_resumed_bitwise(tmp_path):
    folders = [pair_folder(tmp_path / name, n) for name, n in (("a", 3), ("b", 5))]
    data = PairData(Mixed([PairFolder(str(folder)) for folder in folders]), framing=Framing(16), workers=0)
    whole = list(islice(data.open(0).batches(ProcessShare(4, 0)), 5))
    later = islice(data.open(0).batches(ProcessShare(4, 0, first=3)), 2)
    ranks = [list(islice(data.open(0).batches(ProcessShare(2, 0, rank, 2)), 5)) for rank in (0, 1)]
    for a, b in zip(whole[3:], later, strict=True):
        assert (a.row, a.epoch) == (b.row, b.epoch)
        assert torch.equal(a.pixels, b.pixels)
    for a, b, c in zip(whole, *ranks, strict=True):
        assert torch.equal(a.pixels, torch.cat([b.pixels, c.pixels], dim=1))


def test_no_more_first_pairs_than_there_are(tmp_path):
    assert opened(pair_folder(tmp_path), rows=[]).first(9).row == (0, 1, 2, 3, 4, 5)


def test_a_held_out_split_shares_no_prompt_with_training(tmp_path):
    data = PairData(PairFolder(str(pair_folder(tmp_path, n=12))), framing=Framing(16))
    held = replace(
        data,
        rows=[*data.rows, ForValidation(0.3)],
        caption_dropout=0.0,
        framing=replace(data.framing, flip=False, random_crop=False),
    ).open(0)
    kept = replace(data, rows=[*data.rows, ForTraining(0.3)]).open(0)
    prompts = [{pairs.tables[0][i].prompts[0] for i in range(pairs.size)} for pairs in (held, kept)]
    assert prompts[0].isdisjoint(prompts[1])
    assert len(prompts[0] | prompts[1]) == 12
    assert set(held.first(12).prompts[0]) == prompts[0]


def test_pixels_in_buckets_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(Refusal, match="bucket_step needs the shapes .* encode the pairs"):
        opened(pair_folder(tmp_path), framing=Framing(32, bucket_step=8))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"together": 0}, "data.together must be at least 1, got 0"),
        ({"cycle": 0}, "data.cycle must be at least 1, got 0"),
        ({"cycle": 2, "stream": Stream()}, "set data.cycle or data.stream to null"),
    ],
)
def test_numbers_out_of_range_are_refused(changed, message):
    with pytest.raises(Refusal, match=message):
        PairData(PairFolder("x"), **changed)


def test_draws_repeat_after_a_cycle_though_the_order_does_not(tmp_path):
    data = {"cycle": 2, "rows": [], "framing": Framing(16, random_crop=True)}
    batches = list(islice(opened(pair_folder(tmp_path), **data).batches(ProcessShare(6, 0)), 4))
    assert [batch.epoch[0] for batch in batches] == [0, 1, 0, 1]
    assert batches[0].row != batches[2].row
    first, again = (
        {row: (batch.pixels[:, n], batch.prompts[0][n]) for n, row in enumerate(batch.row)}
        for batch in (batches[0], batches[2])
    )
    assert all(torch.equal(first[row][0], again[row][0]) and first[row][1] == again[row][1] for row in range(6))


class InShapes(PairFolder):
    """Six pairs; those of odd number have another shape."""

    def shapes(self, table):
        return np.arange(6) % 2


def test_batches_of_one_shape(tmp_path):
    data = PairData(InShapes(str(pair_folder(tmp_path))), framing=Framing(16), workers=0, together=2)
    pairs = data.open(0)
    assert pairs.size == 8
    batches = list(islice(pairs.batches(ProcessShare(2, 0)), 8))
    assert all(len({row % 2 for row in batch.row}) == 1 for batch in batches)
    assert {row for batch in batches[:4] for row in batch.row} == set(range(6))
    assert pairs.first(9).row == (0, 2, 4)
    with pytest.raises(Refusal, match="data.together 2 is not a multiple of fit.per_device_batch_size 3"):
        next(pairs.batches(ProcessShare(3, 0)))


def test_a_broken_pair_is_replaced_by_one_of_its_shape(tmp_path):
    pair_folder(tmp_path)
    (tmp_path / "chosen" / "5.png").write_bytes(b"")
    pairs = PairData(InShapes(str(tmp_path)), framing=Framing(16), workers=0).open(0)
    assert list(pairs.onward(Visit(0, 5))) == [5, 1, 3]
    assert pairs[Visit(0, 5)].row.id == 1


def test_several_sources_in_several_shapes_are_refused(tmp_path):
    sources = [InShapes(str(pair_folder(tmp_path / name))) for name in "ab"]
    with pytest.raises(Refusal, match="in several shapes cannot be mixed; train apart"):
        PairData(Mixed(sources), framing=Framing(16)).open(0)


def test_a_pair_of_one_picture_is_passed_over_and_counted_and_nothing_else_moves(tmp_path):
    whole = list(islice(opened(pair_folder(tmp_path / "whole")).batches(ProcessShare(3, 0)), 4))
    pair_folder(tmp_path / "same")
    shutil.copy(tmp_path / "same" / "chosen" / "2.png", tmp_path / "same" / "rejected" / "2.png")
    pairs = opened(tmp_path / "same")
    batches = list(islice(pairs.batches(ProcessShare(3, 0)), 4))
    for before, after in zip(whole, batches, strict=True):
        kept = [i for i, row in enumerate(before.row) if row != 2]
        assert all(before.row[i] == after.row[i] for i in kept)
        assert torch.equal(before.pixels[:, kept], after.pixels[:, kept])
    assert {row for _, row in pairs.seen.identical} == {2}
    assert "; 1 with the same picture on all sides were passed over: rows [2]." in pairs.report()


def test_one_column_on_both_sides_is_an_early_error(tmp_path):
    table = {"prompt": ["a"] * 3, "chosen": [png(seed=n) for n in range(3)]}
    datasets.Dataset.from_dict(table).to_parquet(tmp_path / "a.parquet")
    source = Columns(str(tmp_path / "a.parquet"), rejected="chosen")
    with pytest.raises(Refusal, match="None of 3 pairs in a row .* and 3 have the same picture on all sides"):
        PairData(source, framing=Framing(16), workers=0).open(0).first(1)


def captioned(folder):
    table = {"prompt": [["a", "b", "c"]] * 4, "chosen": [png(seed=n) for n in range(4)]}
    table["rejected"] = [png(seed=9 + n) for n in range(4)]
    datasets.Dataset.from_dict(table).to_parquet(folder / "a.parquet")
    return PairData(Columns(str(folder / "a.parquet")), framing=Framing(16), workers=0, caption_dropout=0.0)


@pytest.mark.parametrize("stream", [None, Stream(2)])
def test_of_several_captions_each_visit_draws_one_whatever_the_batches(tmp_path, stream):
    data = replace(captioned(tmp_path), stream=stream)
    pairs = data.open(0)
    ones, threes = (list(islice(pairs.batches(ProcessShare(n, 0)), 12 // n)) for n in (1, 3))
    said = [prompt for batch in ones for prompt in batch.prompts[0]]
    assert said == [prompt for batch in threes for prompt in batch.prompts[0]]
    assert set(said) == {"a", "b", "c"}
    assert "have several captions (training draws one at each visit, all else takes the first)" in pairs.report()


def test_held_out_pairs_are_judged_by_the_first_caption(tmp_path):
    validation = HeldOut(source=captioned(tmp_path).source).held_out(captioned(tmp_path)).open(0)
    batches = islice(validation.batches(ProcessShare(4, 0)), 3)
    assert {prompt for batch in batches for side in batch.prompts for prompt in side} == {"a"}
    assert "4 have several captions, of which the first was taken" in validation.report()
