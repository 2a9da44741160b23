from math import log

import pytest
import torch
from tiny_text import language_model, token_batch

from diffpo.core.draws import Draws
from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.data.rows import PairRow
from diffpo.text.data.keywords import find_phrases
from diffpo.text.methods.spo_self_supervised import HEAD, Degrade, SelfSupervised
from diffpo.text.model.states import part_of
from diffpo.text.objective.preference import SequencePreference
from diffpo.text.objective.selecting import take_between

DRAWS = Draws(0, (0, 0, 0), (0, 1, 2))
BATCH = token_batch(k=6)
GOOD, BAD = "A red fox runs, and the old barn is in the green valley.", "The cat and the dog and a tall tree."


def degraded(chosen: str = GOOD, rejected: str = BAD) -> PairRow | None:
    return Degrade()(PairRow(0, ("p", "p"), (chosen, rejected)), Draws(0, (0,), (0,)))


def trained(seed: int = 0):
    model = language_model(seed)
    SelfSupervised().attach(model, 0)
    return model


def test_copies_lack_ever_more_of_the_best_phrases():
    row = degraded()
    assert row is not None
    assert row.candidates[:2] == (GOOD, BAD)
    assert row.candidates[2::2] == (
        "A, and the old barn is in the green valley.",
        "A, and the is in the green valley.",
    )
    assert row.candidates[3::2] == ("The cat and the dog and a.", "The and the dog and a.")
    assert row.prompts == ("p",) * 6
    assert row.scores == (0.0,) * 6
    for side in (0, 1):
        lengths = [len(find_phrases(text)) for text in row.candidates[side::2]]
        assert lengths == [3, 2, 1]


def test_a_pair_with_too_few_phrases_is_dropped_and_wrong_settings_are_refused():
    assert degraded(rejected="The cat and the dog.") is None
    with pytest.raises(Refusal, match="at least 2 levels, the intact answer being one, got 1"):
        Degrade(1)
    with pytest.raises(Refusal, match="takes pairs, row 0 has 1 candidates"):
        Degrade()(PairRow(0, ("p",), ("a",)), Draws(0, (0,), (0,)))


def test_at_the_start_it_is_log_two_and_two_gamma_log_of_the_levels():
    model = trained()
    step = SelfSupervised(gamma=0.5)(model, FrozenCopy(model), BATCH, DRAWS)
    torch.testing.assert_close(step.loss, torch.tensor(log(2) + 0.5 * 2 * log(3)))


def test_gamma_zero_is_the_base_bit_for_bit():
    frozen, grads, losses = FrozenCopy(language_model(1)), [], []
    for objective, batch in ((SelfSupervised(gamma=0.0), BATCH), (SequencePreference(), take_between(BATCH, 0, 2))):
        model = trained()
        step = objective(model, frozen, batch, DRAWS)
        step.loss.backward()
        grads.append(model.lm_head.weight.grad)
        losses.append(step.loss.detach())
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    assert torch.equal(*grads)


def test_the_head_learns_from_the_levels_alone():
    model = trained()
    SelfSupervised(gamma=0.0)(model, FrozenCopy(model), BATCH, DRAWS).loss.backward()
    assert not part_of(model, HEAD).weight.grad.any()
    SelfSupervised()(model, FrozenCopy(model), BATCH, DRAWS).loss.backward()
    assert part_of(model, HEAD).weight.grad.any()


def test_the_head_tells_levels_apart_after_some_steps():
    model, objective = trained(), SelfSupervised(gamma=1.0, head_lr=0.3)
    frozen, stepper = FrozenCopy(model), torch.optim.AdamW(objective.trained(model), lr=1e-3)
    errors = []
    for _ in range(12):
        step = objective(model, frozen, BATCH, DRAWS)
        stepper.zero_grad()
        step.loss.backward()
        stepper.step()
        errors.append(step.metrics["degree/cross_entropy"].mean())
    assert errors[0] == pytest.approx(log(3))
    assert errors[-1] < 0.5 * errors[0]
