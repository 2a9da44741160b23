import pytest
import torch
from tiny_text import language_model, token_batch

from diffpo.core.draws import Draws
from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.text.methods.hypo import HyPO, estimate_divergence, lay_out_answers
from diffpo.text.objective.preference import SequencePreference

DRAWS = Draws(0, (0, 0, 0), (0, 1, 2))
BATCH = token_batch(k=2)
POLICY, REFERENCE = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.5, 0.3, 0.2])


def ending():
    """A tiny model that knows what ends an answer."""
    model = language_model()
    model.generation_config.eos_token_id = 1
    return model


def test_coefficients_by_hand_add_up_to_zero():
    """Answers 0, 1, 0, 2 of p (.6, .3, .1) against (.5, .3, .2)."""
    drawn = torch.tensor([0, 1, 0, 2])
    logps = POLICY.log()[drawn][:, None].requires_grad_()
    estimate_divergence(logps, REFERENCE.log()[drawn][:, None]).sum().backward()
    coefficients = 4 * logps.grad[:, 0]
    torch.testing.assert_close(
        coefficients, torch.tensor([0.352597, 0.109501, 0.352597, -0.814695]), atol=1e-5, rtol=0
    )
    assert coefficients.sum().abs() < 1e-6


def test_the_expected_gradient_is_that_of_the_divergence():
    """All pairs of two answers, each with its probability."""
    logits = POLICY.log().requires_grad_()
    first, second = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
    drawn = torch.stack([first, second])
    held = estimate_divergence(logits.log_softmax(0)[drawn], REFERENCE.log()[drawn])
    (POLICY[first] * POLICY[second] * held).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([0.085346, -0.012023, -0.073323]), atol=1e-5, rtol=0)


def test_where_policy_and_reference_agree_only_the_pairs_are_learned():
    gradients, losses = [], []
    for objective in (HyPO(lam=10.0, tokens=4), SequencePreference()):
        model = ending()
        step = objective(model, FrozenCopy(model), BATCH, DRAWS)
        step.loss.backward()
        losses.append(step.loss.detach())
        gradients.append(model.lm_head.weight.grad)
        assert step.metrics.get("kl", torch.zeros(3)).abs().max() < 1e-5
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_lam_moves_what_the_policy_says_itself_and_zero_does_not():
    found = []
    for objective in (SequencePreference(), HyPO(lam=0.0, tokens=4), HyPO(lam=1.0, tokens=4)):
        model = ending()
        objective(model, FrozenCopy(language_model(1)), BATCH, DRAWS).loss.backward()
        found.append(model.lm_head.weight.grad)
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1e-3)


def test_answers_of_a_row_do_not_depend_on_the_others():
    model, objective = ending(), HyPO(k=3, tokens=5)
    whole = objective.sample(model, BATCH, DRAWS)
    assert whole.ids.shape[:2] == (3, 3)
    assert (whole.scored <= whole.attended).all()
    assert torch.equal(whole.ids, objective.sample(model, BATCH, DRAWS).ids)
    other = objective.sample(model, BATCH, Draws(1, DRAWS.epoch, DRAWS.row))
    assert whole.ids.shape != other.ids.shape or not torch.equal(whole.ids, other.ids)


def test_answers_stand_after_their_prompts():
    laid = lay_out_answers([[7, 8], [9]], [[1, 2], [3], [4], [5, 6]], 2, BATCH)
    assert laid.ids.tolist() == [[[7, 8, 1, 2], [9, 4, 0, 0]], [[7, 8, 3, 0], [9, 5, 6, 0]]]
    assert laid.scored.int().tolist() == [[[0, 0, 1, 1], [0, 1, 0, 0]], [[0, 0, 1, 0], [0, 1, 1, 0]]]
    assert laid.attended.int().sum(-1).tolist() == [[4, 2], [3, 3]]


def test_between_estimates_the_pairs_alone_are_learned():
    objective = HyPO(every=3)
    assert [objective.after(steps) is objective for steps in range(5)] == [True, False, False, True, False]
    assert objective.after(1) == objective.pairs


def test_what_cannot_be_estimated_is_refused():
    for wrong in ({"k": 1}, {"every": 0}, {"lam": -1.0}):
        with pytest.raises(Refusal, match="at least"):
            HyPO(**wrong)
    model = language_model()
    model.generation_config.eos_token_id = None
    with pytest.raises(Refusal, match="eos_token_id"):
        HyPO()(model, FrozenCopy(model), BATCH, DRAWS)
