from dataclasses import replace

import pytest
import torch
from tiny_text import saved_language_model, saved_pairs

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective
from diffpo.core.references import Reference
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.data.sampler import ProcessShare
from diffpo.losses.reference_free import SimPO
from diffpo.text.data.pairs import TextData
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.model.loading import CausalLM
from diffpo.text.objective.preference import Desensitised, SequencePreference
from diffpo.text.objective.reference_cache import cache_text_reference


@pytest.fixture
def world(tmp_path):
    base = CausalLM(saved_language_model(tmp_path / "base"))
    return base, TextData(Columns(saved_pairs(tmp_path / "pairs.parquet", n=4)), max_length=64, workers=0)


def nobody() -> Reference:
    raise AssertionError("no reference is needed")


def recall(tmp_path, world, inner, objective: Objective | None = None, data: TextData | None = None):
    base, given = world
    data = data or given
    pairs = data.open(0, base.tokenizing())
    about = objective or SequencePreference(), base, data, pairs, 0, torch.float32
    return pairs, cache_text_reference(tmp_path / "memory", inner, *about)


def test_what_was_answered_in_one_epoch_is_known_in_all_and_to_other_runs(tmp_path, world):
    model = world[0].load()
    pairs, known = recall(tmp_path, world, model.reference)
    batch = next(iter(pairs.batches(ProcessShare(4, seed=0))))

    def score(network):
        return token_logps(network, batch).sum(-1)

    known.at(Draws(0, (0,) * 4, batch.row))
    answers = known(score)
    assert torch.equal(answers, score(model.network))
    known.at(Draws(0, (7,) * 4, batch.row))
    assert torch.equal(known(score), answers)
    _, again = recall(tmp_path, world, nobody)
    again.at(Draws(0, (1,) * 4, batch.row))
    assert torch.equal(again(score), answers)


def test_a_run_that_would_ask_something_else_is_refused(tmp_path, world):
    recall(tmp_path, world, world[0].load().reference)
    with pytest.raises(Refusal, match="asked"):
        recall(tmp_path, world, nobody, SequencePreference(reduce=Desensitised()))
    with pytest.raises(Refusal, match="cut"):
        recall(tmp_path, world, nobody, data=replace(world[1], max_length=32))


def test_an_objective_without_such_numbers_is_refused(tmp_path, world):
    with pytest.raises(Refusal, match="set reference_cache to null"):
        recall(tmp_path, world, nobody, SequencePreference(SimPO()))
