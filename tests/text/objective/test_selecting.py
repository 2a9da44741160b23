from dataclasses import replace

import pytest
import torch
from tiny_text import language_model, token_batch

from diffpo.core.refusal import Refusal
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.objective.selecting import take_between, take_candidates

BATCH = token_batch(k=4, b=3)


def test_what_is_taken_says_what_it_said_without_its_padding():
    which = torch.tensor([[3, 0, 2], [1, 1, 0]])
    some, model = take_candidates(BATCH, which), language_model()
    whole = token_logps(model, BATCH)
    assert some.ids.shape[-1] == some.attended.sum(-1).max() <= BATCH.ids.shape[-1]
    for m in range(2):
        for b in range(3):
            said = whole[which[m, b], b, : some.ids.shape[-1] - 1]
            torch.testing.assert_close(token_logps(model, some)[m, b], said)


def test_scores_and_inputs_go_with_their_candidates():
    scores = torch.arange(12.0).reshape(4, 3)
    batch = replace(BATCH, label=replace(BATCH.label, score=scores), inputs={"x": scores.flatten()[:, None]})
    some = take_between(batch, 1, 3)
    assert torch.equal(some.label.score, scores[1:3])
    assert torch.equal(some.inputs["x"].flatten(), scores[1:3].flatten())


def test_inputs_that_belong_to_no_candidate_are_refused():
    patches = replace(BATCH, inputs={"pixel_values": torch.zeros(40, 2)})
    for take in (lambda: take_between(patches, 0, 2), patches.best):
        with pytest.raises(Refusal, match="pixel_values has 40 rows for 12 candidates"):
            take()


def test_all_of_them_are_the_batch():
    whole = take_between(BATCH, 0, 4)
    assert torch.equal(whole.ids, BATCH.ids[..., : whole.ids.shape[-1]])
