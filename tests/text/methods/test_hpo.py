from dataclasses import replace
from math import exp, log

import pytest
import torch
from tiny_text import language_model, token_batch

from diffpo.core.draws import Draws
from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.data.rows import PairRow
from diffpo.text.methods.hpo import HEAD, HPO, Rewards
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.model.states import part_of
from diffpo.text.objective.preference import SequencePreference

DRAWS = Draws(0, (0, 0, 0), (0, 1, 2))
BATCH = token_batch()


def rewarded(reward: torch.Tensor):
    return replace(BATCH, label=replace(BATCH.label, score=reward.float().expand(2, 3)))


def with_head(bias: float = 0.0):
    """A model whose head expects `bias` everywhere."""
    model = language_model()
    HPO().attach(model, 0)
    torch.nn.init.constant_(part_of(model, HEAD).last.bias, bias)
    return model


def auxiliary(objective: HPO, reward: torch.Tensor, bias: float = 0.0) -> torch.Tensor:
    """What is added to the preference loss, which is log 2 at the reference."""
    model = with_head(bias)
    return objective(model, FrozenCopy(model), rewarded(reward), DRAWS).loss - log(2)


def per_token(side: slice = slice(None)) -> torch.Tensor:
    logps, scored = token_logps(language_model(), BATCH)[side], BATCH.scored[side, :, 1:]
    return logps.sum(-1) / scored.sum(-1)


def test_as_good_as_expected_is_plain_imitation_of_both_answers():
    aux = auxiliary(HPO(gamma=0.5), torch.tensor(0.7), bias=0.7)
    torch.testing.assert_close(aux, -0.5 * per_token().mean())


def test_by_hand():
    """R = 1, 0 against V = 0.5, lam 2: weights e and 1/e; expectile at tau 0.9: (0.9 + 0.1) / 2 x 0.25."""
    reward = torch.tensor([[1.0], [0.0]])
    aux = auxiliary(HPO(gamma=1.0, lam=2.0, tau=0.9, value_coef=2.0), reward, bias=0.5)
    chosen, rejected = per_token()
    torch.testing.assert_close(aux, -(exp(1) * chosen + exp(-1) * rejected).mean() / 2 + 2 * 0.125)


def test_without_temperature_all_weights_are_one_and_large_ones_are_bounded():
    reward = torch.tensor([[9.0], [-9.0]])
    torch.testing.assert_close(auxiliary(HPO(lam=0.0, value_coef=0.0), reward), -0.5 * per_token().mean())
    bounded = auxiliary(HPO(lam=5.0, w_max=3.0, value_coef=0.0, gamma=1.0), torch.tensor([[9.0], [9.0]]))
    torch.testing.assert_close(bounded, -3 * per_token().mean())


def test_one_half_is_half_the_squared_error():
    aux = auxiliary(HPO(gamma=0.0, tau=0.5, value_coef=1.0), torch.tensor([[0.8], [0.2]]))
    torch.testing.assert_close(aux, torch.tensor(0.5 * (0.64 + 0.04) / 2))


def gradients(objective, model=None):
    model = model or with_head(0.3)
    objective(model, FrozenCopy(language_model(1)), rewarded(torch.tensor([[1.0], [0.0]])), DRAWS).loss.backward()
    return model


def test_both_coefficients_zero_are_the_base_bit_for_bit_and_so_is_the_network_during_the_delay():
    plain = gradients(SequencePreference())
    for objective in (HPO(gamma=0.0, value_coef=0.0), HPO().after(99)):
        model = gradients(objective)
        for name, parameter in plain.model.named_parameters():
            assert torch.equal(model.model.get_parameter(name).grad, parameter.grad)
    assert part_of(gradients(HPO().after(99)), HEAD).last.bias.grad.any()
    assert HPO().after(100) == HPO()


def test_weighted_imitation_does_not_train_the_head_nor_the_head_the_network():
    model = gradients(HPO(value_coef=0.0))
    assert not part_of(model, HEAD).last.bias.grad.any()
    raised = gradients(HPO(gamma=0.0))
    plain = gradients(SequencePreference())
    assert torch.equal(raised.lm_head.weight.grad, plain.lm_head.weight.grad)


def test_the_head_sees_the_prompt_only():
    model, other = with_head(), replace(BATCH, ids=BATCH.ids.clone())
    torch.nn.init.ones_(part_of(model, HEAD).last.weight)
    other.ids[..., 3:] = 7
    ours, theirs = (HPO()(model, FrozenCopy(model), batch, DRAWS).metrics["value/mean"] for batch in (BATCH, other))
    torch.testing.assert_close(ours, theirs)
    assert ours.std() > 0


def test_what_the_reference_answers_on_the_same_network_is_not_taken_for_the_value():
    class Itself(FrozenCopy):
        def __init__(self, model):
            self.model = model

    model = with_head(0.2)
    step = HPO()(model, Itself(model), BATCH, DRAWS)
    step.loss.backward()
    assert part_of(model, HEAD).last.bias.grad.any()


def test_rewards_are_weighted_sums_and_turn_with_the_sides():
    extra = {"a": 1.0, "b": 0.5, "c": 0.0, "d": 1.0}
    row = PairRow(0, ("p", "p"), ("x", "y"), extra=extra)
    rewards = Rewards(columns=[("a", "b"), ("c", "d")], weights=[0.95, 0.05])
    for given, expected in ((row, (0.95, 0.525)), (row.swapped(), (0.525, 0.95))):
        changed = rewards(given, DRAWS)
        assert changed is not None
        assert changed.scores == pytest.approx(expected)
    with pytest.raises(Refusal, match="a weight per component, got 1 and 2"):
        Rewards(weights=[1.0, 2.0])
    with pytest.raises(Refusal, match="tau between 0 and 1, got 1"):
        HPO(tau=1.0)


def test_rewards_are_scaled_to_the_unit_interval_by_their_range():
    row = PairRow(0, ("p", "p"), ("a", "b"), extra={"chosen_reward": 2.0, "rejected_reward": -1.0})
    assert Rewards(low=-2.0, high=2.0)(row, DRAWS).scores == (1.0, 0.25)
    with pytest.raises(Refusal, match="low < high"):
        Rewards(low=1.0, high=1.0)
