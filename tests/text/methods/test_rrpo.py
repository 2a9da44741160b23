from dataclasses import replace
from math import log

import torch
from tiny_text import language_model, token_batch

from diffpo.core.draws import Draws
from diffpo.core.references import FrozenCopy
from diffpo.losses.logistic import Sigmoid
from diffpo.text.methods.rrpo import RRPO, MarkedTokens
from diffpo.text.model.likelihoods import token_logits, token_logps
from diffpo.text.objective.preference import SequencePreference

DRAWS = Draws(0, (0, 0, 0), (0, 1, 2))


def marked():
    """The second and third token of each completion are a phrase."""
    batch = token_batch()
    place = batch.scored.cumsum(-1) * batch.scored
    return replace(batch, part=((place == 2) | (place == 3)).long())


def test_loss_is_log_2_where_policy_is_reference():
    policy = language_model()
    step = RRPO()(policy, FrozenCopy(policy), marked(), DRAWS)
    torch.testing.assert_close(step.loss, torch.tensor(log(2)))
    assert not step.metrics["divergence/chosen"].any()


def test_without_marks_and_divergence_it_is_dpo():
    policy, reference, batch = language_model(0), FrozenCopy(language_model(1)), token_batch()
    step = RRPO(Sigmoid(0.4), alpha=0.0)(policy, reference, batch, DRAWS)
    dpo = SequencePreference(Sigmoid(0.4))(policy, reference, batch, DRAWS)
    torch.testing.assert_close(step.loss, dpo.loss)


def test_loss_by_hand():
    policy, other, batch = language_model(0), language_model(1), marked()
    ratio = (token_logps(policy, batch) - token_logps(other, batch)).detach() * batch.part[..., 1:]
    chosen, rejected = ratio.sum(-1)
    log_p, log_r = (token_logits(model, batch).detach().log_softmax(-1) for model in (policy, other))
    divergence = ((log_r.exp() * (log_r - log_p)).sum(-1) * batch.scored[..., 1:])[0].sum(-1)
    want = torch.log1p(torch.exp(-0.5 * (chosen - rejected))).mean() + 0.05 * divergence.mean()
    step = RRPO(Sigmoid(0.5), alpha=0.05)(policy, FrozenCopy(other), batch, DRAWS)
    torch.testing.assert_close(step.loss, want)
    torch.testing.assert_close(step.metrics["divergence/chosen"], divergence)


def test_weight_of_a_pair_scales_both_terms():
    policy, reference, batch = language_model(0), FrozenCopy(language_model(1)), marked()
    doubled = replace(batch, label=replace(batch.label, weight=2 * batch.label.weight))
    once, twice = (RRPO(alpha=0.05)(policy, reference, each, DRAWS).loss for each in (batch, doubled))
    torch.testing.assert_close(twice, 2 * once)


def test_splitting_a_phrase_in_two_changes_nothing():
    policy, reference, batch = language_model(0), FrozenCopy(language_model(1)), marked()
    split = replace(batch, part=batch.part.cumsum(-1) * batch.part)
    assert split.part.max() == 2
    whole, halves = (RRPO()(policy, reference, each, DRAWS).loss for each in (batch, split))
    assert torch.equal(whole, halves)


def test_marks_outside_of_the_completion_do_not_count():
    batch = token_batch()
    assert torch.equal(
        MarkedTokens().weights(replace(batch, part=torch.ones_like(batch.part))), batch.scored[..., 1:].float()
    )


def slopes(objective, batch):
    """Size of the gradient by the last state of each predicted token, which only this token's logits depend on."""
    policy, found = language_model(0), []

    def keep(norm, inputs, states):
        states.retain_grad()
        found.append(states)

    policy.model.norm.register_forward_hook(keep)
    objective(policy, FrozenCopy(language_model(1)), batch, DRAWS).loss.backward()
    return found[0].grad[:, :-1].norm(dim=-1).unflatten(0, batch.ids.shape[:2])


def test_unmarked_tokens_get_a_gradient_from_the_divergence_of_the_chosen_side_alone():
    batch = marked()
    scored, part = batch.scored[..., 1:], batch.part[..., 1:]
    plain, regularized = slopes(RRPO(alpha=0.0), batch), slopes(RRPO(alpha=0.05), batch)
    assert torch.equal(plain > 0, part > 0)
    assert torch.equal(regularized[0] > 0, scored[0])
    assert torch.equal(regularized[1], plain[1])


def test_gradient_raises_the_chosen_phrase_and_lowers_the_rejected():
    policy, batch = language_model(), marked()
    reference = FrozenCopy(policy)
    RRPO()(policy, reference, batch, DRAWS).loss.backward()
    with torch.no_grad():
        for p in policy.parameters():
            p -= 0.1 * p.grad
    assert (RRPO()(policy, reference, batch, DRAWS).metrics["rewards/margins"] > 0).all()
