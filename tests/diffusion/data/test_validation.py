from dataclasses import replace

import pytest
from tiny import pair_folder

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import PairFolder
from diffpo.data.sampler import ProcessShare
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import HeldOut, PairData

FRAMING = Framing(16, random_crop=True)


def rows(pairs) -> set[int]:
    return set(next(iter(pairs.batches(ProcessShare(pairs.size, seed=0)))).row)


@pytest.fixture
def data(tmp_path):
    return PairData(PairFolder(str(pair_folder(tmp_path / "own", n=40))), framing=FRAMING, workers=0)


def test_each_pair_is_either_trained_on_or_judged(data):
    training, validation = HeldOut(share=0.3).split(data, seed=0)
    assert rows(training) | rows(validation.pairs) == set(range(40))
    assert not rows(training) & rows(validation.pairs)
    assert 4 <= validation.pairs.size <= 20


def test_the_split_does_not_depend_on_the_seed(data):
    one, other = (HeldOut(share=0.3).split(data, seed)[1].pairs for seed in (0, 1))
    assert rows(one) == rows(other)


def test_held_out_pairs_are_read_plainly(data):
    _, validation = HeldOut(share=0.3).split(data, seed=0)
    assert validation.pairs.reader.framing == Framing(16, flip=False, random_crop=False)
    assert all("" not in side for side in validation.pairs.first(5).prompts)


def test_pairs_from_elsewhere_leave_the_training_data_whole(data, tmp_path):
    other = PairFolder(str(pair_folder(tmp_path / "other", n=5)))
    training, validation = HeldOut(source=other, every=7, pairs=3).split(data, seed=0)
    assert (training.size, validation.pairs.size) == (40, 5)
    assert (validation.every, validation.count) == (7, 3)


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.0}, {"every": 0}, {"pairs": 0}])
def test_what_cannot_be_judged_is_refused(wrong):
    with pytest.raises(Refusal, match="validation"):
        HeldOut(**wrong)


def test_the_share_must_leave_pairs_on_both_sides(data):
    with pytest.raises(Refusal, match="No pairs left of 40 rows.*ForValidation dropped 40"):
        HeldOut(share=1e-9).split(data, seed=0)


def test_the_draws_of_held_out_pairs_do_not_repeat_with_those_of_training(data):
    training, validation = HeldOut(share=0.3).split(replace(data, cycle=2), seed=0)
    assert (training.cycle, validation.pairs.cycle) == (2, None)
