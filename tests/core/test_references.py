import pytest
import torch
from tiny import draws, image_batch, moved, unet
from torch import nn

from diffpo.core.references import Ema, FrozenCopy, SwitchedOff, store_matrices


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_frozen_copy_stays_while_the_policy_moves():
    policy = nn.Linear(3, 2)
    before = weights(policy)
    reference = FrozenCopy(policy)
    moved(policy)
    reference.after_step(policy)
    assert torch.equal(reference(weights), before)
    assert not torch.equal(weights(policy), before)


def test_no_gradient_reaches_a_reference():
    reference = FrozenCopy(nn.Linear(3, 2))
    assert not reference(lambda model: model(torch.ones(1, 3)).sum()).requires_grad
    assert all(p.grad is None and not p.requires_grad for p in reference.model.parameters())


def test_ema_moves_by_its_decay():
    policy = nn.Linear(2, 1, bias=False)
    reference = Ema(policy, decay=0.9)
    start = weights(policy)
    with torch.no_grad():
        policy.weight.add_(1.0)
    reference.after_step(policy)
    torch.testing.assert_close(reference(weights), start + 0.1)


def test_ema_state_survives_a_checkpoint():
    policy = nn.Linear(2, 1)
    one, other = Ema(policy, 0.5), Ema(moved(nn.Linear(2, 1)), 0.5)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(weights), one(weights))
    assert FrozenCopy(policy).state_dict() == {}


def test_switched_off_uses_the_switch_and_restores():
    from contextlib import contextmanager

    @contextmanager
    def zeroed(model):
        saved = model.weight.data.clone()
        model.weight.data.zero_()
        yield
        model.weight.data.copy_(saved)

    policy = nn.Linear(2, 1, bias=False)
    before = weights(policy)
    assert SwitchedOff(policy, zeroed)(weights).abs().sum() == 0
    assert torch.equal(weights(policy), before)


def test_half_precision_storage_changes_no_bit_under_autocast():
    network, batch = unet().eval(), image_batch()
    x, t = batch.latents.flatten(0, 1), draws().integers("t", 1000).repeat(2)
    stored = FrozenCopy(network, torch.bfloat16)
    assert stored.model.conv_in.weight.dtype == torch.bfloat16
    assert stored.model.conv_norm_out.weight.dtype == torch.float32

    def score(model: nn.Module) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x, t, batch.cond.states["prompt"].flatten(0, 1)).sample

    with torch.no_grad():
        assert torch.equal(stored(score), score(network))


def test_storage_leaves_trainable_layers_alone():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    store_matrices(network, torch.bfloat16)
    assert [layer.weight.dtype for layer in network] == [torch.bfloat16, torch.float32]


def test_storage_leaves_layers_alone_that_are_kept():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).requires_grad_(False)
    store_matrices(network, torch.bfloat16, [network[1]])
    assert [layer.weight.dtype for layer in network] == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_ema_extremes(decay):
    policy = nn.Linear(2, 1)
    reference, start = Ema(policy, decay), weights(policy)
    moved(policy)
    reference.after_step(policy)
    torch.testing.assert_close(reference(weights), weights(policy) if decay == 0 else start)
