import math

import pytest
import torch
from tiny import pair_logps
from tiny_losses import at, labels, pulls, sides

from diffpo.core.refusal import Refusal
from diffpo.losses.divergence import AlphaDivergence, JensenShannon
from diffpo.losses.logistic import Sigmoid
from diffpo.losses.margin import IPO

LOG2, LOG3 = math.log(2), math.log(3)
DIVERGENCES = [AlphaDivergence, JensenShannon]


@pytest.mark.parametrize("wrap", DIVERGENCES)
@pytest.mark.parametrize("inner", [Sigmoid(0.3), IPO(0.3)])
def test_value_where_policy_is_reference_is_that_of_the_inner_loss(wrap, inner):
    assert torch.equal(wrap(inner)(at(0.0), labels(0.8)), inner(at(0.0), labels(0.8)))


@pytest.mark.parametrize("wrap", DIVERGENCES)
def test_scores_have_slope_one_or_its_published_share_at_zero(wrap):
    """u f''(u) at u = 1: 1 for alpha divergences, 1/2 for Jensen-Shannon."""
    slope = pulls(wrap(Sigmoid(1.0)), sides([0.0], [0.0]), labels(1.0))[0]
    torch.testing.assert_close(slope, torch.tensor([-0.5 if wrap is AlphaDivergence else -0.25]))


@pytest.mark.parametrize(
    ("loss", "score"),
    [
        (AlphaDivergence(alpha=1.0), 1 - 1 / 4),
        (AlphaDivergence(alpha=0.5), (1 - 4**-0.5) / 0.5),
        (JensenShannon(), math.log(2 * 4 / 5)),
    ],
    ids=["forward KL", "alpha", "Jensen-Shannon"],
)
def test_score_by_hand(loss, score):
    """At u = p / p_ref = 4, from the published f'."""
    log_ratio = torch.tensor([[math.log(4)], [0.0]])
    torch.testing.assert_close(loss.score(log_ratio), torch.tensor([[score], [0.0]]))


def test_loss_by_hand():
    """u = 3 and 1 under the forward KL, beta 2: z = 2 (2/3 - 0)."""
    want = torch.tensor([math.log(1 + math.exp(-4 / 3))])
    torch.testing.assert_close(AlphaDivergence(Sigmoid(2.0), 1.0)(sides([LOG3], [0.0]), labels(1.0)), want)


def test_small_alpha_approaches_dpo():
    pair = pair_logps()
    near = AlphaDivergence(Sigmoid(0.3), 1e-4)(pair, labels(0.8, 5))
    torch.testing.assert_close(near, Sigmoid(0.3)(pair, labels(0.8, 5)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("loss", [AlphaDivergence(alpha=1.0), JensenShannon()])
def test_hopeless_log_ratios_stay_finite(loss):
    """Rejected answers of a long run: their likelihood has fallen by e^200."""
    pair = sides([0.0], [-200.0])
    assert loss(pair, labels(1.0)).isfinite().all()
    assert pulls(loss, pair, labels(1.0)).isfinite().all()


def test_jensen_shannon_has_no_more_than_log_2_to_give():
    torch.testing.assert_close(JensenShannon().score(torch.full((2, 1), 90.0)), torch.full((2, 1), LOG2))


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(Refusal, match=rf"alpha in \(0, 1\], got {alpha}"):
        AlphaDivergence(alpha=alpha)
