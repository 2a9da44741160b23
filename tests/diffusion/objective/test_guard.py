import pytest
import torch

from diffpo.core.refusal import Refusal
from diffpo.diffusion.objective.guard import Guard, scale_gradient


def residuals(chosen: list[float], rejected: list[float]) -> torch.Tensor:
    return torch.tensor([chosen, rejected]).view(2, 1, 1, 1, len(chosen))


def test_share_by_hand():
    """|e_w|^2 = 4, <e_w, e_l> = 8: share = (1 - mu) / 2."""
    shares = Guard(0.6)(residuals([2.0, 0.0], [4.0, 1.0]))
    torch.testing.assert_close(shares, torch.tensor([[1.0], [0.2]]))


@pytest.mark.parametrize("rejected", [[-1.0, 0.0], [0.0, 1.0]])
def test_opposing_or_orthogonal_residuals_are_left_alone(rejected):
    assert Guard(0.9)(residuals([1.0, 0.0], rejected)).tolist() == [[1.0], [1.0]]


def test_share_never_exceeds_one():
    assert Guard(0.0)(residuals([4.0], [1.0])).tolist() == [[1.0], [1.0]]


def test_mu_one_ignores_an_agreeing_loser():
    assert Guard(1.0)(residuals([1.0], [1.0])).tolist() == [[1.0], [0.0]]


def test_first_order_guarantee():
    """A step of -(g_w - share g_l) on the shared output does not raise the winner's error: <e_w, step> <= 0."""
    error = torch.randn(2, 64, 4, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    share = Guard(0.1)(error)[1].view(-1, 1)
    chosen, rejected = error.flatten(2)
    step = -(chosen - share * rejected)
    assert ((chosen * step).sum(-1) <= 1e-4).all()


def test_a_pair_is_guarded_as_if_alone():
    error = torch.randn(2, 5, 4, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    alone = torch.cat([Guard()(error[:, [i]]) for i in range(5)], dim=1)
    torch.testing.assert_close(Guard()(error), alone)


def test_scale_gradient_keeps_the_value():
    x = torch.tensor([0.3, 0.7], requires_grad=True)
    y = scale_gradient(x, torch.tensor([1.0, 0.25]))
    y.sum().backward()
    assert torch.equal(y, x)
    assert x.grad.tolist() == [1.0, 0.25]


@pytest.mark.parametrize("mu", [-0.1, 1.1])
def test_mu_out_of_range_is_refused(mu):
    with pytest.raises(Refusal, match=r"mu in \[0, 1\]"):
        Guard(mu)
