import pytest
import torch
from tiny import pair_logps

from diffpo.core import PairLabels, PairLogps, pair_step
from diffpo.losses.logistic import Sigmoid


def test_swapped_sides_negate_the_margin():
    pair = pair_logps()
    swapped = PairLogps(pair.policy.flip(0), pair.reference.flip(0), pair.length.flip(0))
    torch.testing.assert_close(swapped.margin, -pair.margin)


def test_a_list_of_three_has_no_margin():
    three = PairLogps(torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="too many values"):
        _ = three.margin


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
