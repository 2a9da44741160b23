from dataclasses import replace
from math import log

import pytest
import torch
from tiny_text import language_model, token_batch

from diffpo.core.draws import Draws
from diffpo.core.references import FrozenCopy
from diffpo.losses.likelihood import ChosenTotalNLL
from diffpo.losses.reference_free import ORPO
from diffpo.text.methods.rationales import RationalePreference
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.objective.preference import SequencePreference
from diffpo.text.objective.selecting import take_between

DRAWS = Draws(0, (0, 0, 0), (0, 1, 2))
BATCH = token_batch(k=3)


def test_at_the_reference_what_is_left_of_log_two_is_gamma_nll():
    model = language_model()
    step = RationalePreference(gamma=3.0)(model, FrozenCopy(model), BATCH, DRAWS)
    logps, scored = token_logps(model, BATCH)[2], BATCH.scored[2, :, 1:]
    nll = (-logps.sum(-1) / scored.sum(-1)).mean()
    torch.testing.assert_close(step.loss - 3.0 * nll, torch.tensor(log(2)))
    torch.testing.assert_close(step.metrics["rationale/nll"].mean(), nll)


def test_the_papers_sum_grows_with_the_tokens():
    model = language_model()
    total = RationalePreference(rationale=ChosenTotalNLL())(model, FrozenCopy(model), BATCH, DRAWS)
    torch.testing.assert_close(total.metrics["rationale/nll"], -token_logps(model, BATCH)[2].sum(-1))


@pytest.mark.parametrize("base", [SequencePreference(), SequencePreference(ORPO())], ids=["RDPO", "RORPO"])
def test_gamma_zero_is_the_base_bit_for_bit(base):
    frozen, grads, losses = FrozenCopy(language_model(1)), [], []
    for objective, batch in ((RationalePreference(base, gamma=0.0), BATCH), (base, take_between(BATCH, 0, 2))):
        model = language_model()
        step = objective(model, frozen if base.requires.reference else None, batch, DRAWS)
        step.loss.backward()
        grads.append(model.lm_head.weight.grad)
        losses.append(step.loss.detach())
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    assert torch.equal(*grads)


def test_the_rationale_is_learned_and_neither_pair_nor_reference_knows_it():
    model, other = language_model(), replace(BATCH, ids=BATCH.ids.clone())
    other.ids[2, :, 4] = 5
    frozen = FrozenCopy(language_model(1))
    ours, theirs = (RationalePreference()(model, frozen, batch, DRAWS) for batch in (BATCH, other))
    assert torch.equal(ours.metrics["rewards/margins"], theirs.metrics["rewards/margins"])
    assert not torch.equal(ours.metrics["rationale/nll"], theirs.metrics["rationale/nll"])
    before = ours.metrics["rationale/nll"].mean()
    ours.loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.05 * parameter.grad
    assert RationalePreference()(model, frozen, BATCH, DRAWS).metrics["rationale/nll"].mean() < before
