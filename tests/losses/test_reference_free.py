import math
from dataclasses import replace

import pytest
import torch
from tiny import pair_logps
from tiny_losses import PROBABILITY, REFERENCE_FREE, at, labels, likely, pulls, sides
from torch.nn.functional import logsigmoid

from diffpo.core.pair import PairLogps
from diffpo.losses.likelihood import ChosenNLL
from diffpo.losses.logistic import Sigmoid
from diffpo.losses.margin import Hinge
from diffpo.losses.reference_free import ASFT, CPO, ORPO, SimPO, SLiC, log_odds

LOG2 = math.log(2)


@pytest.mark.parametrize("loss", [*REFERENCE_FREE, *PROBABILITY])
def test_the_reference_changes_nothing(loss):
    pair = likely()
    assert not loss.needs_reference
    assert torch.equal(loss(replace(pair, reference=pair.policy), labels(0.8, 5)), loss(pair, labels(0.8, 5)))


def test_only_odds_need_probabilities():
    assert all(loss.needs_probability for loss in PROBABILITY)
    assert not any(loss.needs_probability for loss in REFERENCE_FREE)


def test_simpo_by_hand():
    """Lengths 2 and 4, likelihoods -2 and -8: z = 2 (-1 + 2) - 0.5 = 1.5."""
    pair = PairLogps(torch.tensor([[-2.0], [-8.0]]), torch.zeros(2, 1), torch.tensor([[2.0], [4.0]]))
    torch.testing.assert_close(SimPO(2.0, 0.5)(pair, labels(1.0)), -logsigmoid(torch.tensor([1.5])))


def test_simpo_where_both_sides_are_equal():
    torch.testing.assert_close(SimPO(2.0, 0.0)(at(0.0), labels(1.0)), torch.tensor([LOG2]))


def test_slic_by_hand():
    """-2 against -2.5, delta 1, lam 0.5: max(0, 1 - 0.5) + 0.5 x 2."""
    assert SLiC(1.0, 0.5)(sides([-2.0], [-2.5]), labels(1.0)).item() == 1.5


def test_slic_without_imitation_is_the_hinge_of_an_absent_reference():
    pair = pair_logps()
    absent = replace(pair, reference=torch.zeros(2, 5))
    assert torch.equal(SLiC(1.0, 0.0)(pair, labels(0.8, 5)), Hinge(1.0)(absent, labels(0.8, 5)))


def test_cpo_by_hand():
    """-2 of 4 tokens against -2, beta 0.1, lam 3: log 2 + 3 x 0.5."""
    value = CPO(0.1, 3.0)(sides([-2.0], [-2.0], lengths=(4.0, 1.0)), labels(1.0))
    torch.testing.assert_close(value, torch.tensor([LOG2 + 1.5]))


def test_cpo_without_imitation_is_dpo_of_a_constant_reference():
    pair = pair_logps()
    constant = replace(pair, reference=torch.zeros(2, 5))
    assert torch.equal(CPO(0.3, 0.0)(pair, labels(0.8, 5)), Sigmoid(0.3)(constant, labels(0.8, 5)))


def test_log_odds_by_hand():
    """Mean tokens of probability 1/2, 3/4 and e^-20, and one that is certain."""
    pair = sides([-4 * LOG2, 4 * math.log(0.75)], [-80.0, 0.0], lengths=(4.0, 4.0))
    odds = log_odds(pair)
    torch.testing.assert_close(odds[:, 0], torch.tensor([0.0, -20.0]), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(odds[0, 1], torch.tensor(math.log(3)))
    assert odds[1, 1].isfinite()


def test_orpo_by_hand():
    """p = 3/4 and 1/2: odds 3 and 1, so -log(3/4) - 0.5 log(3/4)."""
    pair = sides([4 * math.log(0.75)], [-2 * LOG2], lengths=(4.0, 2.0))
    torch.testing.assert_close(ORPO(0.5)(pair, labels(1.0)), torch.tensor([-1.5 * math.log(0.75)]))


def test_asft_where_both_sides_are_coins():
    """p = 1/2 on both sides: (1 + 2 lam) log 2."""
    value = ASFT(lam=0.7)(sides([-3 * LOG2], [-3 * LOG2], lengths=(3.0, 3.0)), labels(1.0))
    torch.testing.assert_close(value, torch.tensor([2.4 * LOG2]))


def test_asft_of_beta_one_judges_each_side_by_its_probability():
    """L = -(1 + lam) log p_w - lam log(1 - p_l)."""
    pair = likely()
    chosen, rejected = (pair.policy / pair.length).double()
    want = -1.7 * chosen - 0.7 * torch.log(1 - rejected.exp())
    torch.testing.assert_close(ASFT(1.0, 0.7)(pair, labels(1.0, 5)), want.float())


def test_tempered_asft_by_hand():
    """Odds 3 and 3, beta 2: -log(3/4) - log(9/10) - log(1/10)."""
    pair = sides([math.log(0.75)], [math.log(0.75)])
    want = torch.tensor([-math.log(0.75 * 0.9 * 0.1)])
    torch.testing.assert_close(ASFT(2.0, 1.0)(pair, labels(1.0)), want)


def test_orpo_is_asft_but_for_a_joint_term():
    """L_ORPO = L_ASFT + lam log(p_w (1 - p_l) + p_l (1 - p_w))."""
    pair = likely()
    p, q = (pair.policy / pair.length).exp()
    want = ASFT(1.0, 0.3)(pair, labels(1.0, 5)) + 0.3 * torch.log(p * (1 - q) + q * (1 - p))
    torch.testing.assert_close(ORPO(0.3)(pair, labels(1.0, 5)), want)


@pytest.mark.parametrize("loss", [ORPO(0.0), ASFT(lam=0.0)])
def test_without_odds_only_imitation_is_left(loss):
    assert torch.equal(loss(likely(), labels(1.0, 5)), ChosenNLL()(likely(), labels(1.0, 5)))
    assert not pulls(loss, likely(), labels(1.0, 5))[1].any()


@pytest.mark.parametrize("loss", [SimPO(), SLiC(delta=9.0), CPO(), *PROBABILITY])
def test_the_chosen_side_is_pulled_up_and_the_rejected_down(loss):
    up, down = pulls(loss, likely(), labels(1.0, 5))
    assert (up < 0).all()
    assert (down > 0).all()


def test_a_soft_label_exchanges_the_absolute_terms_of_asft():
    pair = sides([math.log(0.75)], [-LOG2])
    want = torch.tensor([-math.log(0.75) - math.log(0.25) + LOG2])
    torch.testing.assert_close(ASFT()(pair, labels(0.0)), want)
