from dataclasses import replace
from itertools import islice

import pytest
import torch
from tiny_encoded import base, encoded, pixels, world

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.mixture import Mixed
from diffpo.data.rows import PairRow, RowMap
from diffpo.data.sampler import ProcessShare
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return world(tmp_path_factory.mktemp("world"), xl=True)


def batches(data, n=6, size=3):
    return list(islice(data.open(0).batches(ProcessShare(size, 0)), n))


def test_visits_flips_and_dropped_captions_are_those_of_pictures(root):
    model = base(root).load()
    for one, other in zip(batches(pixels(root)), batches(encoded(root)), strict=True):
        assert (one.epoch, one.row, one.broken) == (other.epoch, other.row, other.broken)
        assert (one.pictures, one.enlarged) == (other.pictures, other.enlarged)
        drawn = Draws(0, one.epoch, one.row)
        ours, theirs = model.encode(other, drawn), model.encode(one, drawn)
        torch.testing.assert_close(ours.latents, theirs.latents, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.cond.states["prompt"], theirs.cond.states["prompt"])
        torch.testing.assert_close(ours.cond.states["pooled"], theirs.cond.states["pooled"])
        assert torch.equal(ours.cond.picture["time_ids"], theirs.cond.picture["time_ids"])


def test_states_that_both_sides_share_are_stored_once_in_a_batch(root):
    prompt = batches(encoded(root), 1)[0].cond.states["prompt"]
    assert prompt.shape[0] == 2
    assert prompt.untyped_storage().nbytes() == prompt[0].numel() * 4


def test_batches_do_not_depend_on_workers(root):
    for one, other in zip(batches(encoded(root)), batches(replace(encoded(root), workers=2)), strict=True):
        assert one.row == other.row
        assert torch.equal(one.mean, other.mean)
        assert torch.equal(one.cond.states["prompt"], other.cond.states["prompt"])


class Captioned(RowMap):
    def __call__(self, row: PairRow, draws):
        return replace(row, prompts=("another caption",) * 2)


def test_a_prompt_that_was_not_encoded_is_named(root):
    data = replace(encoded(root), rows=[Captioned()], caption_dropout=0.0)
    with pytest.raises(Refusal, match="'another caption' was not encoded; .*run scripts/encode_pairs.py with"):
        data.open(0).first(1)


def test_prompts_of_row_maps_are_those_that_are_encoded(root):
    data = replace(encoded(root, "captioned", rows=[Captioned()]), caption_dropout=0.0)
    assert data.source.encoding["prompts"] == 2
    same, *_ = data.open(0).first(3).cond.states["prompt"][0]
    assert all(torch.equal(same, states) for states in data.open(0).first(3).cond.states["prompt"][0])


def test_the_report_tells_of_prompts_and_unreadable_pairs(root):
    pairs = encoded(root).open(0)
    list(islice(pairs.batches(ProcessShare(4, 0)), 2))
    assert pairs.report() == (
        "8 of 8 rows were kept; 1 with an unreadable picture were passed over: rows [3]. 1 of 16 pictures read were "
        "smaller than the resolution and were enlarged. 0 of 9 prompts were longer than 24 tokens and cut when they "
        "were encoded."
    )


def test_encoded_sources_are_mixed_in_any_types(root):
    sources = [encoded(root, name, dtype).source for name, dtype in (("encoded", "float32"), ("half", "bfloat16"))]
    data = PairData(Mixed(sources), framing=Framing(32), workers=0)
    (batch,) = batches(data, n=1, size=8)
    assert {row // 8 for row in batch.row} == {0, 1}
    assert data.open(0).row_ids.tolist() == list(range(16))
    assert (batch.mean.dtype, batch.cond.states["prompt"].dtype) == (torch.float32, torch.float32)
    with pytest.raises(Refusal, match="mixed with pictures; encode all sources of data.source, or none"):
        replace(data, source=Mixed([sources[0], pixels(root).source])).open(0)


def test_states_come_in_the_type_that_a_run_computes_in(root):
    for storage in (torch.float32, torch.bfloat16):
        model = base(root).load(storage=storage, encodes=False, draws=False)
        for name, dtype in (("encoded", "float32"), ("half", "bfloat16")):
            batch, _ = model.first(encoded(root, name, dtype).open(0), 2)
            assert (batch.cond.states["prompt"].dtype, batch.cond.states["pooled"].dtype) == (storage, storage)
            assert batch.latents.dtype == batch.cond.picture["time_ids"].dtype == torch.float32
