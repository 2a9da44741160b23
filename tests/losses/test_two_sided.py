import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import pair_logps
from tiny_losses import TWO_SIDED, at, labels, pulls, sides, swapped

from diffpo.core.refusal import Refusal
from diffpo.losses.two_sided import BCO, KTO, NCA, SPPO, APODown, APOZero, WinRateSPPO

LOG2, LOG3 = math.log(2), math.log(3)
BY_HAND = sides([LOG3], [-LOG2])  # sigmoids: 3/4 of the chosen reward, 1/3 of the rejected, 6/7 of their difference


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (NCA(), 2 * LOG2),
        (BCO(), 2 * LOG2),
        (APOZero(), 1.0),
        (APODown(), 1.0),
        (KTO(desirable=3.0), 2.0),
        (SPPO(0.1), 50.0),
    ],
)
def test_value_where_policy_is_reference(loss, value):
    torch.testing.assert_close(loss(at(0.0), labels(1.0)), torch.tensor([value]))


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (NCA(1.0), -math.log(3 / 4) - 0.5 * math.log(1 / 4) - 0.5 * math.log(2 / 3)),
        (BCO(1.0), -math.log(3 / 4) - math.log(2 / 3)),
        (APOZero(1.0), 1 / 4 + 1 / 3),
        (APODown(1.0), 3 / 4 + 1 / 7),
        (SPPO(1.0), (LOG3 - 0.5) ** 2 + (0.5 - LOG2) ** 2),
    ],
)
def test_value_by_hand(loss, value):
    torch.testing.assert_close(loss(BY_HAND, labels(1.0)), torch.tensor([value]))


def test_kto_by_hand():
    """Mean reward (log 3 + 0) / 2 shifts both: 2 (1 - s(log sqrt 3)) + s(-log sqrt 3), s(log u) = u / (1 + u)."""
    root = math.sqrt(3)
    want = 2 / (1 + root) + 1 / (1 + root)
    torch.testing.assert_close(KTO(1.0, desirable=2.0)(sides([LOG3], [0.0]), labels(1.0)), torch.tensor([want]))


def test_kto_of_falling_rewards_is_apo_zero():
    """z0 is cut off at 0, and 1 - s(r_w) + s(r_l) is left."""
    pair = sides([-1.0, 0.5], [-2.0, -3.0])
    assert torch.equal(KTO(0.5)(pair, labels(1.0, 2)), APOZero(0.5)(pair, labels(1.0, 2)))


def test_no_gradient_goes_through_the_mean_of_kto():
    """One pair, rewards +-r around a mean of 0: slopes are those of the two sigmoids, s(1 - s) each."""
    up, down = pulls(KTO(1.0), sides([LOG3], [LOG3]), labels(1.0))
    torch.testing.assert_close(torch.cat([up, down]), torch.tensor([-0.25, 0.25]))


@pytest.mark.parametrize("loss", TWO_SIDED)
def test_a_certain_rejection_is_the_swapped_pair(loss):
    pair = pair_logps()
    torch.testing.assert_close(loss(pair, labels(0.0, 5)), loss(swapped(pair), labels(1.0, 5)))


@pytest.mark.parametrize("loss", TWO_SIDED[:5])
def test_a_soft_label_mixes_both_orders(loss):
    pair = pair_logps()
    mixed = 0.8 * loss(pair, labels(1.0, 5)) + 0.2 * loss(pair, labels(0.0, 5))
    torch.testing.assert_close(loss(pair, labels(0.8, 5)), mixed)


def test_a_soft_label_moves_the_targets_of_sppo():
    """P = 3/4, beta 1/4: targets 1 and -1."""
    assert SPPO(0.25)(sides([1.0], [-1.0]), labels(0.75)).item() == 0.0


@pytest.mark.parametrize(
    ("loss", "up", "down"),
    [(NCA(1.0), -0.25, 0.25), (BCO(1.0), -0.5, 0.5), (APOZero(1.0), -0.25, 0.25), (APODown(1.0), 0.0, 0.25)],
)
def test_pull_on_each_side_where_policy_is_reference(loss, up, down):
    torch.testing.assert_close(pulls(loss, at(0.0), labels(1.0)).flatten(), torch.tensor([up, down]))


def test_nca_holds_the_chosen_reward_at_log_2():
    """-(1 - s) + s / 2 = 0 at s = 2/3."""
    assert abs(pulls(NCA(1.0), sides([LOG2], [0.0]), labels(1.0))[0].item()) < 1e-7


@pytest.mark.parametrize("loss", TWO_SIDED)
def test_a_constant_on_both_sides_is_noticed(loss):
    low, high = (loss(sides([0.5 + shift], [shift - 0.5]), labels(1.0)) for shift in (-1.0, 2.0))
    assert not torch.allclose(low, high)


def test_sppo_refuses_a_target_that_does_not_exist():
    with pytest.raises(Refusal, match="SPPO needs a positive beta, got 0.0"):
        SPPO(0.0)


def test_sppo_of_win_rates_that_add_up_to_one_is_sppo():
    pair, label = sides([0.4], [-0.3]), labels(0.7)
    rates = replace(label, score=torch.tensor([[0.7], [0.3]]))
    assert WinRateSPPO(0.5)(pair, rates).item() == pytest.approx(SPPO(0.5)(pair, label).item())


def test_sppo_of_win_rates_by_hand():
    """h (0.4, -0.3), rates (0.6, 0.4333), beta 0.5: (0.4 - 0.2)^2 + (-0.3 + 0.1333)^2."""
    rates = replace(labels(1.0), score=torch.tensor([[0.6], [0.4333]]))
    assert WinRateSPPO(0.5)(sides([0.4], [-0.3]), rates).item() == pytest.approx(0.04 + 0.1666**2, abs=1e-6)


def test_sppo_of_win_rates_needs_rates():
    rated, scored, silent = (
        SimpleNamespace(scores=scores, prompts=("p",), prob=1.0) for scores in ((0.6, 0.4), (3.0, 1.0), (0.0, 0.0))
    )
    met = [[need.met([row]) for need in WinRateSPPO().needs] for row in (rated, scored, silent)]
    assert met == [[True, True], [True, False], [False, True]]
