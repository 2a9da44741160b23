import math
from dataclasses import replace

import pytest
import torch
from tiny import draws
from tiny_text import language_model, token_batch

from diffpo.core.pair import PairLogps
from diffpo.core.references import FrozenCopy
from diffpo.losses.logistic import Sigmoid
from diffpo.losses.reference_free import SimPO
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.objective.preference import Desensitised, SequencePreference, length_moments


def other():
    return FrozenCopy(language_model(seed=1))


def test_a_policy_that_is_its_reference_loses_log_two_exactly():
    model = language_model()
    step = SequencePreference()(model, FrozenCopy(model), token_batch(), draws())
    assert step.loss.item() == pytest.approx(math.log(2), abs=1e-7)
    assert step.metrics["rewards/margins"].tolist() == [0, 0, 0]


def test_swapped_sides_negate_the_margin():
    batch = token_batch()
    names = ("ids", "attended", "scored", "part")
    swapped = replace(batch, **{name: getattr(batch, name).flip(0) for name in names})
    one, two = (SequencePreference()(language_model(), other(), x, draws()) for x in (batch, swapped))
    assert torch.allclose(one.metrics["rewards/margins"], -two.metrics["rewards/margins"], atol=1e-5)


def test_the_loss_is_that_of_summed_log_likelihoods():
    model, batch, reference = language_model(), token_batch(), other()
    ratio = (token_logps(model, batch) - token_logps(reference.model, batch)).sum(-1)
    expected = -torch.nn.functional.logsigmoid(0.5 * (ratio[0] - ratio[1])).mean()
    assert torch.allclose(SequencePreference(Sigmoid(0.5))(model, reference, batch, draws()).loss, expected)


def test_log_likelihoods_of_both_sides_are_reported():
    model, batch = language_model(), token_batch()
    metrics = SequencePreference()(model, other(), batch, draws()).metrics
    expected = token_logps(model, batch).sum(-1)
    assert torch.equal(torch.stack([metrics["logps/chosen"], metrics["logps/rejected"]]), expected)


def test_a_loss_without_reference_asks_none():
    assert not SequencePreference(SimPO()).requires.reference
    SequencePreference(SimPO())(language_model(), None, token_batch(), draws())


def test_how_tokens_add_up_decides_what_the_reference_is_asked():
    plain, desensitised = SequencePreference(), SequencePreference(reduce=Desensitised())
    assert plain.requires.cacheable_by != desensitised.requires.cacheable_by


def test_moments_of_length_are_those_of_margin_and_difference():
    policy, reference = torch.tensor([[-1.0, -5.0], [-4.0, -3.0]]), torch.tensor([[-2.0, -4.0], [-2.0, -3.0]])
    pair = PairLogps(policy, reference, torch.tensor([[5.0, 3.0], [2.0, 7.0]]))  # margins 3 and -1, longer by 3 and -4
    found = length_moments(pair)
    assert found["length/margin_by_difference"].tolist() == [9.0, 4.0]
    assert found["length/margin_square"].tolist() == [9.0, 1.0]
    assert found["length/difference_square"].tolist() == [9.0, 16.0]
    exchanged = length_moments(PairLogps(policy.flip(0), reference.flip(0), pair.length.flip(0)))
    assert all(torch.equal(exchanged[name], values) for name, values in found.items())
    same = length_moments(PairLogps(policy, policy, pair.length))
    assert same["length/margin_by_difference"].tolist() == same["length/margin_square"].tolist() == [0.0, 0.0]
