from dataclasses import replace
from math import log

import pytest
import torch
from tiny_text import language_model, token_batch
from torch.nn.functional import logsigmoid

from diffpo.core.draws import Draws
from diffpo.core.references import FrozenCopy
from diffpo.losses.logistic import Sigmoid
from diffpo.text.methods.tpo_tree import TPO, Alike, LambdaRank
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.objective.preference import SequencePreference
from diffpo.text.objective.steps import EqualSteps, SimilarSteps, Steps, StepWeight

DRAWS = Draws(0, (0, 0), (0, 1))
SCORES = torch.tensor([[1.0, 0.9], [0.5, 0.9], [0.25, 0.1]])
PLAIN = TPO(pairs=Alike(), steps=EqualSteps())


def lists(k=3, scores=SCORES):
    """Lists whose answers have two steps, the second of which begins with the third token."""
    batch = token_batch(k, b=2)
    part = torch.where(batch.scored.cumsum(-1) < 3, 1, 2) * batch.scored
    return replace(batch, part=part, label=replace(batch.label, score=scores))


class Constant(StepWeight):
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, reference, batch, steps):
        return self.weight * EqualSteps()(reference, batch, steps)


def loss(objective, batch):
    return objective(language_model(0), FrozenCopy(language_model(1)), batch, DRAWS).loss


def test_two_answers_without_weights_are_dpo():
    pairs = lists(2, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    torch.testing.assert_close(loss(PLAIN, pairs), loss(SequencePreference(Sigmoid(0.5)), pairs))


def test_loss_where_policy_is_reference_is_log_2_times_the_weights():
    """Three answers in their order: gains 2^v and discounts 1 / log(1 + rank)."""
    policy, batch = language_model(), lists()
    gains, discounts = [2.0, 2**0.5, 2**0.25], [1 / log(2), 1 / log(3), 1 / log(4)]
    gains_tied = [2**0.9, 2**0.9, 2**0.1]
    sums = [
        sum(abs(g[i] - g[j]) * abs(discounts[i] - discounts[j]) for i in range(3) for j in range(i))
        for g in (gains, gains_tied)
    ]
    step = TPO()(policy, FrozenCopy(policy), batch, DRAWS)
    torch.testing.assert_close(step.loss, torch.tensor(log(2) * sum(sums) / 2))


def test_loss_by_hand_of_a_list_of_two():
    """lambda = |2 - 1| |1 / log 2 - 1 / log 3| whoever has the greater reward."""
    batch = lists(2, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    ratio = token_logps(language_model(0), batch) - token_logps(language_model(1), batch)
    chosen, rejected = ratio.detach().sum(-1)
    want = -(1 / log(2) - 1 / log(3)) * logsigmoid(0.5 * (chosen - rejected)).mean()
    torch.testing.assert_close(loss(TPO(steps=EqualSteps()), batch), want)


def test_lambda_ranks_by_reward_is_symmetric_and_has_no_gradient():
    reward = torch.tensor([[0.1], [0.3], [0.2]], requires_grad=True)
    weight = LambdaRank()(reward, torch.tensor([[1.0], [0.0], [0.0]]))[..., 0]
    assert torch.equal(weight, weight.T)
    assert not weight.requires_grad
    torch.testing.assert_close(weight[0, 1], torch.tensor(1 / log(2) - 1 / log(4)))  # ranks 3 and 1
    torch.testing.assert_close(weight[0, 2], torch.tensor(1 / log(3) - 1 / log(4)))
    assert weight[1, 2] == 0


def test_equal_scores_add_nothing():
    assert loss(TPO(), lists(scores=torch.full((3, 2), 0.4))) == 0


@pytest.mark.parametrize("objective", [TPO(), PLAIN], ids=["weighted", "plain"])
def test_the_order_of_the_list_does_not_matter(objective):
    batch, turn = lists(), torch.tensor([2, 0, 1])
    tensors = {name: getattr(batch, name)[turn] for name in ("ids", "attended", "scored", "part")}
    turned = replace(batch, **tensors, label=replace(batch.label, score=SCORES[turn]))
    torch.testing.assert_close(loss(objective, batch), loss(objective, turned))


def test_doubling_the_weight_of_steps_is_doubling_beta():
    doubled, wide = TPO(beta=0.5, steps=Constant(2.0)), TPO(beta=1.0, steps=EqualSteps())
    torch.testing.assert_close(loss(doubled, lists()), loss(wide, lists()))


def test_steps_that_say_the_same_weigh_two():
    """And add nothing, since their log-ratios are equal: here all answers are one."""
    batch = lists()
    tensors = {name: getattr(batch, name)[:1].repeat(3, 1, 1) for name in ("ids", "attended", "scored", "part")}
    same = replace(batch, **tensors)
    weight = SimilarSteps()(FrozenCopy(language_model()), same, Steps.of(same))
    torch.testing.assert_close(weight, torch.full_like(weight, 2.0))
    torch.testing.assert_close(loss(TPO(steps=SimilarSteps()), same), loss(TPO(steps=Constant(0.0)), same))


@pytest.mark.parametrize("objective", [TPO(), PLAIN], ids=["weighted", "plain"])
def test_gradient_raises_the_best_and_lowers_the_worst(objective):
    policy, batch = language_model(), lists()
    reference = FrozenCopy(policy)
    objective(policy, reference, batch, DRAWS).loss.backward()
    with torch.no_grad():
        for p in policy.parameters():
            p -= 0.05 * p.grad
    step = objective(policy, reference, batch, DRAWS)
    assert (step.metrics["rewards/margins"] > 0).all()
