import json
import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from damage import DAMAGES
from tiny_runs import PointBatch, Points, fit_points, scorer, weights
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.references import SCORES, FrozenCopy, Reference, Score
from diffpo.core.refusal import Refusal
from diffpo.data.sampler import PairSampler, ProcessShare
from diffpo.train.reference_cache import CachedReference, checksums, open_answers
from diffpo.train.validation import Validation

SHAPE = {SCORES: (2, 5, 2)}


class Counting(Reference):
    """Its score of candidate c of row r in epoch e is 100 e + 10 r + c."""

    def __init__(self):
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, score: Score, what: str = SCORES) -> Tensor:
        return score(torch.nn.Identity())


def asked(reference: CachedReference, inner: Counting, epoch: tuple[int, ...], row: tuple[int, ...]) -> Tensor:
    def score(model: torch.nn.Module) -> Tensor:
        inner.asked.append(row)
        begin = 100.0 * torch.tensor(epoch) + 10.0 * torch.tensor(row)
        return torch.stack([begin, begin + 1])

    reference.at(Draws(0, epoch, row))
    return reference(score)


@pytest.fixture
def folder(tmp_path):
    open_answers(tmp_path / "scores", {"base": "a"}, SHAPE)
    return tmp_path / "scores"


def test_a_score_is_computed_once_and_then_the_same_whatever_the_batch(folder):
    inner = Counting()
    reference = CachedReference(inner, folder)
    first = asked(reference, inner, (0, 1, 0), (3, 3, 1))
    again = asked(reference, inner, (1, 0), (3, 1))
    assert inner.asked == [(3, 3, 1)]
    assert first.tolist() == [[30, 130, 10], [31, 131, 11]]
    assert again.tolist() == [[130, 10], [131, 11]]
    assert (reference.computed, reference.looked_up) == (3, 2)


def test_a_batch_with_one_unknown_pair_is_computed_whole(folder):
    inner = Counting()
    reference = CachedReference(inner, folder)
    asked(reference, inner, (0,), (1,))
    asked(reference, inner, (0, 0), (1, 2))
    assert inner.asked == [(1,), (1, 2)]


def test_another_run_finds_what_one_has_left(folder):
    inner = Counting()
    for epoch in (0, 1):
        asked(CachedReference(inner, folder), inner, (epoch,) * 3, (0, 2, 4))
    later = CachedReference(None, folder)
    assert later.is_complete(np.array([0, 2, 4]))
    assert not later.is_complete(np.array([0, 1]))
    assert asked(later, inner, (1,), (4,)).tolist() == [[140], [141]]
    assert len(inner.asked) == 2


def test_batches_that_are_not_trained_on_are_neither_looked_up_nor_kept(folder):
    inner = Counting()
    reference = CachedReference(inner, folder)
    reference.at(None)
    assert reference(lambda model: torch.full((2, 1), 7.0)).tolist() == [[7], [7]]
    assert np.isnan(reference.known[SCORES]).all()


def test_more_than_a_number_per_candidate_is_refused(folder):
    reference = CachedReference(Counting(), folder)
    reference.at(Draws(0, (0,), (1,)))
    with pytest.raises(Refusal, match=r"shape \(2, 1, 4\), only numbers of shape \(2, 1\) can be remembered"):
        reference(lambda model: torch.zeros(2, 1, 4))


@pytest.mark.parametrize(("epoch", "row"), [(2, 0), (0, 5)])
def test_pairs_and_epochs_that_it_has_no_place_for_are_refused(folder, epoch, row):
    inner = Counting()
    with pytest.raises(Refusal, match="remembers 5 pairs in 2 epochs, but row . of epoch . is asked for"):
        asked(CachedReference(inner, folder), inner, (epoch,), (row,))


def test_scores_of_something_else_are_refused_and_named(folder):
    with pytest.raises(Refusal, match="base was 'a' and is 'b'; name another folder in reference_cache"):
        open_answers(folder, {"base": "b"}, SHAPE)
    with pytest.raises(Refusal, match=r"shapes was .*\[2, 5, 2\].* and is .*\[4, 5, 2\]"):
        open_answers(folder, {"base": "a"}, {SCORES: (4, 5, 2)})


def test_a_file_whose_making_was_interrupted_is_made_anew(folder):
    asked(CachedReference(Counting(), folder), Counting(), (0,), (1,))
    (folder / "identity.json").unlink()
    open_answers(folder, {"base": "a"}, SHAPE)
    assert np.isnan(np.load(folder / "scores.npy")).all()
    assert json.loads((folder / "identity.json").read_text())["shapes"] == {SCORES: [2, 5, 2]}


def test_the_file_takes_its_room_when_it_is_made(folder):
    assert os.stat(folder / "scores.npy").st_blocks * 512 >= 2 * 5 * 2 * 4


def test_a_full_disk_is_told_in_one_line(tmp_path):
    (tmp_path / "scores.npy.unfinished").symlink_to("/dev/full")
    with pytest.raises(Refusal, match=r"scores.npy could not be written .*No space left.* Make room there"):
        open_answers(tmp_path, {"base": "a"}, SHAPE)


class Cycling(Points):
    """The same draws in every epoch."""

    def batches(self, share: ProcessShare) -> Iterator[PointBatch]:
        for picks in PairSampler((self.size,), share, cycle=1):
            epoch, row, _ = zip(*picks, strict=True)
            yield PointBatch(self.points[:, list(row)], epoch, row)


def test_a_run_that_remembers_is_bit_for_bit_one_that_does_not_and_asks_each_pair_once(tmp_path):
    """12 pairs, 4 a step: 9 steps are 3 epochs, of which the first computes."""
    settings = {"pairs": Cycling(), "steps": 9}
    plain = fit_points(tmp_path / "plain", **settings)
    open_answers(tmp_path / "scores", {}, {SCORES: (1, 12, 2)})
    policy = scorer()
    reference = CachedReference(FrozenCopy(policy), tmp_path / "scores")
    fit_points(tmp_path / "remembering", policy, reference=reference, **settings)
    assert torch.equal(weights(policy), weights(plain))
    assert (reference.computed, reference.looked_up) == (12, 24)
    policy, without = scorer(), CachedReference(None, tmp_path / "scores")
    fit_points(tmp_path / "sweep", policy, reference=without, **settings)
    assert torch.equal(weights(policy), weights(plain))


def test_held_out_pairs_are_judged_as_without_it(tmp_path):
    judged = []
    for name in ("plain", "remembering"):
        policy = scorer()
        reference: Reference = FrozenCopy(policy)
        if name == "remembering":
            open_answers(tmp_path / "scores", {}, {SCORES: (1, 12, 2)})
            reference = CachedReference(reference, tmp_path / "scores")
        validation = Validation(Points(6), every=2, count=30)
        fit_points(tmp_path / name, policy, pairs=Cycling(), reference=reference, validation=validation)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        judged.append([line for line in map(json.loads, lines) if "validation/loss" in line])
    assert judged[0] == judged[1]
    assert len(judged[0]) == 2


FILES = ["identity.json", "scores.npy", "scores-checks.npy"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_no_damage_to_answers_is_taken_for_an_answer(folder, name, damage, seed):
    """It is refused in one line, or what is asked for is computed anew."""
    inner = Counting()
    for epoch in (0, 1):
        asked(CachedReference(inner, folder), inner, (epoch,) * 5, (0, 1, 2, 3, 4))
    DAMAGES[damage](folder / name, seed)
    said = []
    try:
        open_answers(folder, {"base": "a"}, SHAPE)
        reference = CachedReference(inner, folder)
    except Refusal as refused:
        said.append(str(refused))
    if said:
        assert name in said[0] or "something else" in said[0]
        assert "\n" not in said[0]
        return
    for epoch in (0, 1):
        found = asked(reference, inner, (epoch,) * 5, (0, 1, 2, 3, 4))
        assert found.tolist() == [[100 * epoch + 10 * row + side for row in range(5)] for side in (0, 1)]


def test_a_damaged_answer_is_told_and_computed_anew(folder, caplog):
    inner = Counting()
    asked(CachedReference(inner, folder), inner, (0,) * 3, (0, 1, 2))
    np.load(folder / "scores.npy", mmap_mode="r+")[0, 1, 1] = 11.25
    reference = CachedReference(inner, folder)
    assert not reference.is_complete(np.array([1]))
    assert asked(reference, inner, (0,), (1,)).tolist() == [[10], [11]]
    assert f"Some answers (scores) in {folder} are damaged; they are computed anew" in caplog.text
    assert asked(CachedReference(None, folder), inner, (0,), (1,)).tolist() == [[10], [11]]


@pytest.mark.parametrize("words", [1, 2, 300])
def test_no_bit_changes_without_the_checksum(words):
    rng = np.random.default_rng(words)
    answers = rng.standard_normal((1, words)).astype("<f4")
    bits = [(word, bit) for word in range(0, words, 1 + words // 20) for bit in range(32)]
    for word, bit in bits:
        other = answers.copy()
        other.view("<u4")[0, word] ^= np.uint32(1 << bit)
        assert checksums(other) != checksums(answers)
    assert (checksums(np.zeros((3, words), dtype="<f4")) != 0).all()
