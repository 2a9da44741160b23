from dataclasses import replace
from math import log

import pytest
import torch
from tiny_text import language_model, token_batch

from diffpo.core.draws import Draws
from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.text.methods.dmpo import DMPO, TurnDiscount
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.objective.preference import SequencePreference, SumTokens

DRAWS = Draws(0, (0, 0, 0), (0, 1, 2))


def conversation(*turns: list[int]):
    """One prompt; each list says of the tokens after the first which turn they are of, 0 being another's words."""
    part = torch.tensor([[0, *turn] for turn in turns])[:, None]
    batch = token_batch(k=len(turns), b=1, s=part.shape[-1], prompt=1)
    every = torch.ones_like(part, dtype=torch.bool)
    return replace(batch, part=part, scored=part > 0, attended=every)


def turns_of(batch):
    """The same batch, its completions being two turns with a token of the user between them."""
    place = batch.scored.cumsum(-1)
    part = torch.where(place < 2, 1, torch.where(place > 2, 2, 0)) * batch.scored
    return replace(batch, part=part, scored=part > 0)


def test_weights_by_hand():
    """gamma 0.7 and five turns: 1, 0.6394, 0.3870, 0.2103, 0.0866."""
    weights = TurnDiscount(0.7).weights(conversation([1, 2, 3, 4, 5]))
    torch.testing.assert_close(weights, torch.tensor([[[1, 0.6394, 0.3870, 0.2103, 0.0866]]]), atol=5e-5, rtol=0)


def test_without_discount_weights_fall_evenly():
    weights = TurnDiscount(1.0).weights(conversation([1, 1, 0, 2, 0, 3]))
    torch.testing.assert_close(weights, torch.tensor([[[1, 1, 0, 2 / 3, 0, 1 / 3]]]))


def test_weights_are_continuous_at_no_discount():
    batch = conversation([1, 2, 3, 4])
    torch.testing.assert_close(
        TurnDiscount(1 - 1e-6).weights(batch), TurnDiscount(1.0).weights(batch), atol=1e-5, rtol=0
    )


def test_a_strong_discount_leaves_the_first_turn():
    weights = TurnDiscount(1e-9).weights(conversation([1, 1, 2, 3]))
    torch.testing.assert_close(weights, torch.tensor([[[1.0, 1, 0, 0]]]), atol=1e-6, rtol=0)


def test_each_side_has_its_own_number_of_turns():
    weights = TurnDiscount(0.5).weights(conversation([1, 2, 3], [1, 1, 1]))
    torch.testing.assert_close(weights[:, 0], torch.tensor([[1, 3 / 7, 1 / 7], [1, 1, 1]]))


def test_turns_count_from_the_first_that_is_left():
    """What a cut has taken away does not discount the rest."""
    discount = TurnDiscount(0.7)
    assert torch.equal(discount.weights(conversation([0, 3, 4])), discount.weights(conversation([0, 1, 2])))


@pytest.mark.parametrize("gamma", [0.3, 0.7, 1.0])
def test_one_turn_is_dpo(gamma):
    policy, reference, batch = language_model(0), FrozenCopy(language_model(1)), token_batch()
    one = DMPO(reduce=TurnDiscount(gamma))(policy, reference, batch, DRAWS)
    dpo = SequencePreference(reduce=SumTokens())(policy, reference, batch, DRAWS)
    torch.testing.assert_close(one.loss, dpo.loss, rtol=1e-4, atol=1e-5)


def test_loss_is_log_2_where_policy_is_reference():
    policy = language_model()
    step = DMPO()(policy, FrozenCopy(policy), turns_of(token_batch()), DRAWS)
    torch.testing.assert_close(step.loss, torch.tensor(log(2)))


def test_loss_by_hand():
    """Two turns a side: phi is 1 and 0.7 (1 - 0.7) / (1 - 0.49)."""
    policy, other, batch = language_model(0), language_model(1), turns_of(token_batch(b=1))
    ratio = (token_logps(policy, batch) - token_logps(other, batch)).detach()
    part = batch.part[..., 1:]
    chosen, rejected = (ratio * (part == 1) + ratio * (part == 2) * 0.21 / 0.51).sum(-1)
    step = DMPO()(policy, FrozenCopy(other), batch, Draws(0, (0,), (0,)))
    torch.testing.assert_close(step.loss, torch.log1p(torch.exp(-0.1 * (chosen - rejected)))[0])


def test_gradient_raises_the_chosen_side_and_lowers_the_rejected():
    policy, batch = language_model(), turns_of(token_batch())
    DMPO()(policy, FrozenCopy(policy), batch, DRAWS).loss.backward()
    before = token_logps(policy, batch).sum(-1).detach()
    with torch.no_grad():
        for p in policy.parameters():
            p -= 0.1 * p.grad
    chosen, rejected = token_logps(policy, batch).sum(-1).detach() - before
    assert (chosen - rejected > 0).all()


def test_what_others_say_has_no_weight():
    batch = turns_of(token_batch())
    weights = TurnDiscount().weights(batch)
    assert not weights[~batch.scored[..., 1:]].any()
    assert (weights[batch.scored[..., 1:]] > 0).all()


@pytest.mark.parametrize("gamma", [0.0, 1.1])
def test_a_discount_out_of_range_is_refused(gamma):
    with pytest.raises(Refusal, match=r"gamma in \(0, 1\]"):
        TurnDiscount(gamma)
