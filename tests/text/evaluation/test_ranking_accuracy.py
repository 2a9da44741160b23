import math

import pytest
import torch
from tiny import pair_logps

from diffpo.core.pair import PairLabels, PairLogps
from diffpo.losses.logistic import Sigmoid
from diffpo.losses.margin import IPO
from diffpo.losses.reference_free import SimPO
from diffpo.text.evaluation.ranking_accuracy import (
    ReferenceShare,
    accuracies,
    difficulty,
    dpo_bound,
    idealized,
    ipo_bound,
    ranked_right,
)

MANY = pair_logps(1000)
ONES = torch.ones(1000)


def shares(pair: PairLogps, prob: torch.Tensor, *betas: float) -> dict[str, float]:
    return accuracies(pair, prob, betas)


def test_a_pair_is_ranked_right_exactly_if_its_loss_is_within_the_bound():
    for beta in (0.1, 2.0):
        loss = Sigmoid(beta)(MANY, PairLabels.hard(1000))
        assert torch.equal(ranked_right(MANY.policy, ONES), loss <= dpo_bound(MANY, beta))


def test_an_ipo_loss_below_its_bound_ranks_right_and_beyond_reach_zero_ranks_wrong():
    bound, loss = ipo_bound(MANY, 0.4), IPO(0.4)(MANY, PairLabels.hard(1000))
    right = ranked_right(MANY.policy, ONES)
    assert right[loss < bound].all()
    assert (loss < bound).sum() > 50
    hopeless = bound.isnan()
    assert torch.equal(hopeless, difficulty(MANY) > 1.25)
    chosen, rejected = MANY.reference[:, hopeless]
    at_zero = torch.stack([chosen + 1.25, rejected])  # the margin that IPO asks for
    assert not ranked_right(at_zero, ONES[: at_zero.shape[1]]).any()


def test_a_policy_that_is_the_reference():
    found = shares(PairLogps(MANY.reference, MANY.reference, MANY.length), ONES)
    assert found["ranking"] == pytest.approx(1 - found["reference_wrong"])
    assert (found["reward"], found["flipped"], found["kept"]) == (0.0, 0.0, 1.0)


def test_the_ideal_is_all_for_a_small_beta_and_the_reference_for_a_large_one():
    found = shares(MANY, 0.8 * ONES, 1e-6, 1e6)
    assert found["ranking_idealized/1e-06"] == 1.0
    assert found["ranking_idealized/1e+06"] == found["ranking_reference"]


def test_annotators_who_are_split_make_the_reference_the_ideal():
    half, (chosen, rejected) = 0.5 * ONES, MANY.reference
    for beta in (0.01, 10.0):
        assert torch.equal(idealized(MANY.reference, half, beta), chosen > rejected)


def test_the_ideal_by_hand():
    """One in a thousand prefers the loser: log 999 = 6.907; beta 1 mends a reference that is 6.9 wrong, not 6.91."""
    reference = torch.tensor([[0.0, 0.0], [6.9, 6.91]])
    assert idealized(reference, torch.ones(2), 1.0).tolist() == [True, False]
    assert idealized(reference, torch.full((2,), 0.5 + 1e-4), 1.0).tolist() == [False, False]


def test_lists_and_ties():
    lists = torch.tensor([[3.0, 3.0], [2.0, 1.0], [1.0, 2.0]])
    assert ranked_right(lists, torch.ones(2)).tolist() == [True, False]
    close = torch.tensor([[0.0, 0.0], [0.005, 0.02]])
    assert ranked_right(close, torch.full((2,), 0.5)).tolist() == [True, False]


def test_long_answers_are_judged_per_token_too():
    """-6 in 6 tokens against -4 in 2: less likely, more likely per token."""
    one = torch.tensor([[-6.0], [-4.0]])
    found = shares(PairLogps(one, one, torch.tensor([[6.0], [2.0]])), torch.ones(1))
    assert (found["ranking"], found["ranking_per_token"]) == (0.0, 1.0)
    assert math.isnan(found["kept"])


def test_the_share_of_the_reference_goes_from_the_inner_loss_to_one_without():
    label = PairLabels.hard(1000)
    assert torch.equal(ReferenceShare(Sigmoid())(MANY, label), Sigmoid()(MANY, label))
    zero = PairLogps(MANY.policy, torch.zeros_like(MANY.policy), MANY.length)
    assert torch.equal(ReferenceShare(Sigmoid(), gamma=0.0)(MANY, label), Sigmoid()(zero, label))
    assert not ReferenceShare(SimPO()).needs_reference
