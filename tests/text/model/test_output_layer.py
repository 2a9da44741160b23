from types import MethodType

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from diffpo.text.model import output_layer
from diffpo.text.model.output_layer import output_logps

TOKENS, WIDTH, VOCABULARY = 7, 5, 11


def layer(bias: bool = True, seed: int = 0) -> nn.Linear:
    rng = torch.Generator().manual_seed(seed)
    head = nn.Linear(WIDTH, VOCABULARY, bias=bias)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return head


def states() -> Tensor:
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()


def tokens() -> Tensor:
    return torch.tensor([0, 10, 3, 3, 5, 7, 1])


def all_at_once(head: nn.Module, given: Tensor) -> Tensor:
    return head(given).float().log_softmax(-1).gather(-1, tokens()[:, None]).squeeze(-1)


def blockwise(head: nn.Module, given: Tensor, at_once: int = 3 * TOKENS) -> Tensor:
    return output_logps(head, head.forward, given, tokens(), at_once)


def gradients(said: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((said * torch.arange(-2, TOKENS - 2)).sum(), inputs))


@pytest.mark.parametrize("at_once", [1, TOKENS, 3 * TOKENS, 10 * TOKENS])
@pytest.mark.parametrize("bias", [True, False])
def test_blocks_give_the_numbers_and_gradients_of_all_logits_at_once(bias, at_once):
    head, given = layer(bias), states()
    ours, theirs = blockwise(head, given, at_once), all_at_once(head, given)
    assert type(ours.grad_fn).__name__ == "LinearLogpsBackward"
    inputs = given, *head.parameters()
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradients(ours, *inputs), gradients(theirs, *inputs), atol=1e-5, rtol=1e-5)


def test_equal_logits_have_a_gradient_worked_by_hand():
    head = nn.Linear(1, 4, bias=False)
    nn.init.zeros_(head.weight)
    said = output_logps(head, head.forward, torch.tensor([[2.0]]), torch.tensor([1]), at_once=3)
    assert said.item() == pytest.approx(-(torch.tensor(4.0).log().item()))
    said.sum().backward()
    assert head.weight.grad.flatten().tolist() == pytest.approx([-0.5, 1.5, -0.5, -0.5])  # 2 (1[v = 1] - 1/4)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_half_precision_rounds_as_all_logits_at_once_do(weights):
    """Under autocast, and with weights stored so; the backward pass runs outside of autocast, as in training."""
    head, given = layer().to(weights), states().detach().to(weights).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=weights is torch.float32):
        ours, theirs = blockwise(head, given), all_at_once(head, given)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    inputs = given, *head.parameters()
    for mine, others in zip(gradients(ours, *inputs), gradients(theirs, *inputs), strict=True):
        assert mine.dtype == weights
        torch.testing.assert_close(mine, others, atol=0.1, rtol=2**-6)


def test_large_logits_neither_overflow_nor_vanish():
    head, given = layer(), states().detach() * 1e4
    torch.testing.assert_close(blockwise(head, given), all_at_once(head, given), rtol=1e-5, atol=0.05)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_a_frozen_weight_gets_no_gradient_and_the_others_keep_theirs(frozen):
    whole, head, given = layer(), layer(), states()
    head.get_parameter(frozen).requires_grad_(False)
    inputs = [name for name, _ in whole.named_parameters() if name != frozen]
    expected = gradients(blockwise(whole, given), given, *(whole.get_parameter(name) for name in inputs))
    found = gradients(blockwise(head, given), given, *(head.get_parameter(name) for name in inputs))
    assert all(map(torch.equal, found, expected))
    blockwise(head, given).sum().backward()
    assert head.get_parameter(frozen).grad is None


def test_states_without_gradient_leave_the_weights_theirs():
    head, given = layer(), states()
    expected = gradients(blockwise(head, given), *head.parameters())
    assert all(map(torch.equal, gradients(blockwise(head, given.detach()), *head.parameters()), expected))


def test_never_more_logits_are_held_than_asked_for(monkeypatch):
    held, linear = [], output_layer.linear
    monkeypatch.setattr(output_layer, "linear", lambda *given: held.append(linear(*given)) or held[-1])
    blockwise(layer(), states(), at_once=4 * TOKENS).sum().backward()
    assert [logits.shape[1] for logits in held] == [4, 4, 3] * 2  # once more in the backward pass


def test_logits_that_fit_are_computed_once():
    said = blockwise(layer(), states(), at_once=TOKENS * VOCABULARY)
    assert type(said.grad_fn).__name__ == "SubBackward0"


class Doubling(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def doubling() -> nn.Module:
    return Doubling(WIDTH, VOCABULARY)


def hooked() -> nn.Module:
    """As libraries do that move weights to the device."""
    head = layer()
    head.forward = MethodType(Doubling.forward, doubling())
    return head


def normed() -> nn.Module:
    return parametrizations.weight_norm(layer())


@pytest.mark.parametrize("make", [doubling, hooked, normed])
def test_a_layer_that_is_not_plainly_linear_is_asked_itself(make):
    head, given = make(), states()
    ours, theirs = blockwise(head, given, at_once=2 * VOCABULARY), all_at_once(head, given)
    assert type(ours.grad_fn).__name__ == "CatBackward0"
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, given), gradients(theirs, given))
