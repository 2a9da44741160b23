import pytest
import torch
from tiny_losses import at, labels, pulls

from diffpo.core.refusal import Refusal
from diffpo.losses.margin import IPO, Hinge


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
