from dataclasses import dataclass, replace
from functools import partial

import torch
from tiny import pair_logps
from tiny_runs import PointPreference, fit_points, scorer, weights

from diffpo.core.objective import Step, pair_step
from diffpo.core.pair import PairLabels, PairLogps
from diffpo.losses.logistic import Sigmoid


def test_step_is_the_weighted_mean_of_single_pairs():
    """A batch of n is the mean of n batches of 1: the loss is reduced after its non-linearity."""
    pair, loss = pair_logps(4), Sigmoid(2.0)
    label = PairLabels(torch.tensor([1.0, 0.9, 0.7, 1.0]), torch.zeros(2, 4), torch.tensor([1.0, 2.0, 0.5, 0.0]))
    whole = pair_step(loss, pair, label).loss
    singles = [
        pair_step(
            loss,
            PairLogps(pair.policy[:, [i]], pair.reference[:, [i]], pair.length[:, [i]]),
            PairLabels(label.prob[[i]], label.score[:, [i]], label.weight[[i]]),
        ).loss
        for i in range(4)
    ]
    torch.testing.assert_close(whole, torch.stack(singles).mean())


def test_rewards_are_beta_times_log_ratio():
    pair = pair_logps()
    metrics = pair_step(Sigmoid(3.0), pair, PairLabels.hard(5)).metrics
    torch.testing.assert_close(metrics["rewards/chosen"], 3.0 * pair.log_ratio[0])
    torch.testing.assert_close(metrics["rewards/margins"], 3.0 * pair.margin)


def test_a_tie_counts_half_in_accuracy():
    policy = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    metrics = pair_step(Sigmoid(), PairLogps(policy, torch.zeros(2, 3), torch.ones(2, 3)), PairLabels.hard(3)).metrics
    assert metrics["rewards/accuracies"].tolist() == [1.0, 0.5, 0.0]


# What `fit` asks of an objective


@dataclass(frozen=True)
class Ending(PointPreference):
    """Its loss is zero after two steps."""

    scale: float = 1.0

    def after(self, steps: int) -> "Ending":
        return self if steps < 2 else replace(self, scale=0.0)

    def __call__(self, policy, reference, batch, draws) -> Step:
        step = super().__call__(policy, reference, batch, draws)
        return Step(self.scale * step.loss, step.metrics)


def test_an_objective_may_change_with_the_steps_and_resumes_where_it_was(tmp_path):
    plain = partial(torch.optim.SGD, lr=0.1)
    two = weights(fit_points(tmp_path / "two", steps=2, optimizer=plain))
    assert torch.equal(weights(fit_points(tmp_path / "four", objective=Ending(), steps=4, optimizer=plain)), two)
    for steps, resume in ((1, None), (3, "latest")):
        last = fit_points(
            tmp_path / "cut", None, resume, objective=Ending(), steps=steps, save_every=1, optimizer=plain
        )
    assert torch.equal(weights(last), two)
    assert not torch.equal(weights(fit_points(tmp_path / "more", steps=4, optimizer=plain)), two)


@dataclass(frozen=True)
class TwoRates(PointPreference):
    """The last layer stands still."""

    def trained(self, policy):
        first, _, last = policy
        return [{"params": [*first.parameters()]}, {"params": [*last.parameters()], "lr": 0.0}]


def test_a_part_may_have_a_learning_rate_of_its_own(tmp_path):
    policy, before = fit_points(tmp_path, objective=TwoRates()), scorer()
    assert torch.equal(policy[2].weight, before[2].weight)
    assert (policy[0].weight != before[0].weight).any()
