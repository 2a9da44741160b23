from dataclasses import replace

import torch
from tiny import draws
from tiny_text import language_model, token_batch

from diffpo.core.needs import Candidates
from diffpo.text.methods.sft import SFT
from diffpo.text.model.likelihoods import token_logps


def test_the_loss_is_the_mean_over_tokens_of_the_chosen_side():
    model, batch = language_model(), token_batch()
    lengths = batch.scored[0].sum(-1)
    expected = -(token_logps(model, batch)[0].sum(-1) / lengths).mean()
    assert torch.allclose(SFT()(model, None, batch, draws()).loss, expected)


def test_it_is_the_loss_that_transformers_computes():
    model, batch = language_model(), token_batch(b=1)
    labels = torch.where(batch.scored[0], batch.ids[0], -100)
    expected = model(batch.ids[0], attention_mask=batch.attended[0].long(), labels=labels).loss
    assert torch.allclose(SFT()(model, None, batch, draws(1)).loss, expected)


def test_rejected_completions_and_references_are_not_asked():
    batch = token_batch()
    single = SFT()(language_model(), None, batch.best(), draws())
    torch.testing.assert_close(SFT()(language_model(), None, batch, draws()).loss, single.loss, rtol=1e-4, atol=1e-5)
    assert (SFT().requires.reference, SFT().requires.candidates) == (False, Candidates(1))


def test_weights_count():
    batch = token_batch()
    half = replace(batch, label=replace(batch.label, weight=batch.label.weight / 2))
    assert torch.allclose(
        2 * SFT()(language_model(), None, half, draws()).loss, SFT()(language_model(), None, batch, draws()).loss
    )
