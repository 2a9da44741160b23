import pytest
import torch
from tiny_losses import at, labels, pulls

from diffpo.core.pair import PairLabels, PairLogps
from diffpo.core.refusal import Refusal
from diffpo.losses.margin import IPO, Hinge, ScoreMargin


@pytest.mark.parametrize(("loss", "value"), [(Hinge(), 1.0), (IPO(0.1), 25.0)])
def test_value_where_policy_is_reference(loss, value):
    torch.testing.assert_close(loss(at(0.0), labels(1.0)), torch.tensor([value]))


@pytest.mark.parametrize("loss", [Hinge(1.0), IPO(1.0)])
def test_slope_where_policy_is_reference(loss):
    assert pulls(loss, at(0.0), labels(1.0))[0].item() == -1.0


def test_hinge_by_hand():
    """beta 0.5, margin 1, label 0.75: 0.75 (1 - 0.5) + 0.25 (1 + 0.5)."""
    assert Hinge(0.5)(at(1.0), labels(0.75)).item() == 0.75


def test_hinge_is_flat_beyond_its_margin():
    assert Hinge(1.0)(at(1.5), labels(1.0)).item() == 0.0


def test_ipo_is_zero_at_its_target():
    assert IPO(0.25)(at(2.0), labels(1.0)).item() == 0.0


def test_ipo_of_a_soft_label_has_a_nearer_target():
    assert IPO(0.25)(at(1.0), labels(0.75)).item() == 0.0


@pytest.mark.parametrize("beta", [0.0, -1.0])
def test_ipo_refuses_a_margin_that_does_not_exist(beta):
    with pytest.raises(Refusal, match=f"IPO needs a positive beta, got {beta}"):
        IPO(beta)


def scored(h: tuple[float, float], s: tuple[float, float]) -> tuple[PairLogps, PairLabels]:
    """One pair with these log-ratios and scores."""
    ratio, one = torch.tensor(h)[:, None], torch.ones(1)
    return PairLogps(ratio, torch.zeros_like(ratio), torch.ones(2, 1)), PairLabels(one, torch.tensor(s)[:, None], one)


def test_score_margin_by_hand():
    """h (0.5, -0.3), scores (0.8, 0.4), beta 0.5: (0.8 - 0.8)^2; h (0.4, -0.1), scores (0.3, -0.2): (0.5 - 1)^2."""
    assert ScoreMargin(0.5)(*scored((0.5, -0.3), (0.8, 0.4))).item() == pytest.approx(0.0, abs=1e-12)
    assert ScoreMargin(0.5)(*scored((0.4, -0.1), (0.3, -0.2))).item() == pytest.approx(0.25)


def test_score_margin_of_half_the_probabilities_is_ipo():
    pair, label = scored((0.4, -0.1), (0.35, 0.15))
    soft = PairLabels(torch.tensor([0.7]), label.score, label.weight)
    assert ScoreMargin(0.25)(pair, label).item() == pytest.approx(IPO(0.25)(pair, soft).item())


def test_score_margin_does_not_mind_which_side_stands_first():
    straight = ScoreMargin(0.5)(*scored((0.4, -0.1), (0.3, -0.2)))
    assert torch.equal(straight, ScoreMargin(0.5)(*scored((-0.1, 0.4), (-0.2, 0.3))))
    assert "score" in ScoreMargin().needs[0].what
