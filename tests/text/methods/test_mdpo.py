import math
from dataclasses import replace

import pytest
import torch
from tiny import draws, moved
from tiny_eyes import answers_about_pictures, seeing_model
from tiny_text import language_model, token_batch
from torch import Tensor

from diffpo.core.pair import PairLabels, PairLogps
from diffpo.core.references import FrozenCopy, Reference
from diffpo.core.refusal import Refusal
from diffpo.text.data.batches import TokenBatch
from diffpo.text.methods import mdpo
from diffpo.text.methods.mdpo import MDPO, pick_two
from diffpo.text.objective.preference import SequencePreference


class Zeros(Reference):
    """Gives every candidate the log-likelihood 0."""

    def __call__(self, score, what="scores"):
        return torch.zeros(3, 2)


def told(monkeypatch: pytest.MonkeyPatch, *rewards: float) -> Tensor:
    """Log-likelihoods, the same for two rows, that the policy then says of its three candidates, in one token each."""
    said = torch.tensor(rewards)[:, None].repeat(1, 2).requires_grad_()
    monkeypatch.setattr(mdpo, "token_logps", lambda model, batch: said[..., None])
    return said


def only(batch: TokenBatch, *candidates: int) -> TokenBatch:
    """Some of the candidates."""
    kept, b = list(candidates), len(batch.row)
    pictures = batch.inputs["pixel_values"].unflatten(0, (-1, b))[kept].flatten(0, 1)
    label = replace(batch.label, score=batch.label.score[kept])
    cut = {name: vars(batch)[name][kept] for name in ("ids", "attended", "scored", "part")}
    return replace(batch, **cut, label=label, inputs={"pixel_values": pictures})


def gradient(loss: Tensor, model: torch.nn.Module) -> Tensor:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def test_a_policy_that_is_its_reference_pays_log_2_three_times():
    policy = seeing_model()
    step = MDPO()(policy, FrozenCopy(policy), answers_about_pictures(), draws())
    torch.testing.assert_close(step.loss, torch.tensor(3 * math.log(2)), atol=0, rtol=1e-6)
    assert (step.metrics["rewards/conditional_accuracies"] == 0.5).all()


def test_without_its_own_terms_it_is_dpo_bit_for_bit():
    reference, policy, batch = FrozenCopy(seeing_model()), moved(seeing_model()), answers_about_pictures()
    alone = MDPO(conditional=0.0, anchor=0.0)(policy, reference, batch, draws())
    listed = PairLogps(*(logps(policy, reference, batch)), torch.ones(3, 2))
    plain = MDPO().beta * pick_two(listed, 0, 1).margin
    torch.testing.assert_close(alone.loss, -torch.nn.functional.logsigmoid(plain).mean(), rtol=1e-4, atol=1e-5)


def logps(policy: torch.nn.Module, reference: Reference, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    def logp(model):
        return mdpo.token_logps(model, batch).sum(-1)

    return logp(policy), reference(logp)


def test_its_first_term_is_the_sequence_preference_of_the_first_two_candidates():
    reference, policy, batch = FrozenCopy(seeing_model()), moved(seeing_model()), answers_about_pictures()
    alone = MDPO(conditional=0.0, anchor=0.0)(policy, reference, batch, draws())
    dpo = SequencePreference()(policy, reference, only(batch, 0, 1), draws())
    torch.testing.assert_close(alone.loss, dpo.loss)
    torch.testing.assert_close(gradient(alone.loss, policy), gradient(dpo.loss, policy), atol=1e-6, rtol=1e-4)


def test_by_hand(monkeypatch):
    """Rewards 0.2, -0.1, 0.5: margins 0.3 and -0.3, anchor 0.2 - 0.05."""
    told(monkeypatch, 2.0, -1.0, 5.0)
    batch = answers_about_pictures()
    step = MDPO(beta=0.1, conditional=0.5, anchor=2.0, delta=0.05)(seeing_model(), Zeros(), batch, draws())
    by_hand = math.log1p(math.exp(-0.3)) + 0.5 * math.log1p(math.exp(0.3)) + 2 * math.log1p(math.exp(-0.15))
    torch.testing.assert_close(step.loss, torch.tensor(by_hand))
    torch.testing.assert_close(step.metrics["rewards/conditional_margins"], torch.full((2,), -0.3))
    torch.testing.assert_close(step.metrics["rewards/corrupted"], torch.full((2,), 0.5))


def test_the_chosen_answer_is_pushed_up_three_times_and_each_other_down_once(monkeypatch):
    """At the reference each term's slope is beta / 2; the mean over two rows halves it."""
    said = told(monkeypatch, 0.0, 0.0, 0.0)
    loss = MDPO(beta=0.4)(seeing_model(), Zeros(), answers_about_pictures(), draws()).loss
    (slopes,) = torch.autograd.grad(loss, said)
    torch.testing.assert_close(slopes, torch.tensor([[-0.3], [0.1], [0.1]]).expand(3, 2))


def test_the_anchor_looks_at_the_chosen_answer_alone(monkeypatch):
    said = told(monkeypatch, 1.0, 2.0, 3.0)
    batch = answers_about_pictures()
    with_anchor, without = (MDPO(anchor=a)(seeing_model(), Zeros(), batch, draws()).loss for a in (1.0, 0.0))
    (slopes,) = torch.autograd.grad(with_anchor - without, said)
    assert (slopes[0] < 0).all()
    assert not slopes[1:].any()


def test_an_uncorrupted_picture_is_worth_log_2_and_moves_nothing():
    reference, policy = FrozenCopy(seeing_model()), moved(seeing_model())
    batch = answers_about_pictures(corrupted=False)
    with_pictures, without = (MDPO(conditional=c)(policy, reference, batch, draws()) for c in (1.0, 0.0))
    torch.testing.assert_close(with_pictures.loss - without.loss, torch.tensor(math.log(2)))
    torch.testing.assert_close(gradient(with_pictures.loss, policy), gradient(without.loss, policy), atol=1e-7, rtol=0)


def test_a_policy_that_sees_the_corruption_is_not_indifferent():
    reference, policy = FrozenCopy(seeing_model()), moved(seeing_model())
    margins = MDPO()(policy, reference, answers_about_pictures(), draws()).metrics["rewards/conditional_margins"]
    assert margins.abs().min() > 1e-5


def test_a_soft_label_is_about_the_answers_not_about_the_pictures(monkeypatch):
    told(monkeypatch, 1.0, 2.0, 3.0)
    batch = answers_about_pictures()
    doubted = replace(batch, label=PairLabels(torch.zeros(2), batch.label.score, batch.label.weight))
    sure, unsure = (MDPO()(seeing_model(), Zeros(), some, draws()).loss for some in (batch, doubted))
    torch.testing.assert_close(unsure - sure, torch.tensor(-0.1))


def test_texts_without_pictures_are_refused():
    model = language_model()
    with pytest.raises(
        Refusal,
        match="MDPO compares answers about pictures, the batch has none; use diffpo.text.VisionLM",
    ):
        MDPO()(model, FrozenCopy(model), token_batch(k=3), draws())
