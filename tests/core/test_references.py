import copy

import pytest
import torch
from tiny import draws, image_batch, moved, unet
from torch import nn

from diffpo.core.pair import PairLabels, PairLogps
from diffpo.core.references import NOISE, Ema, FrozenCopy, ReferenceMixture, SwitchedOff, store_matrices
from diffpo.core.refusal import Refusal
from diffpo.losses.margin import IPO, ScoreMargin


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


def single(value: float) -> FrozenCopy:
    """Says this number of each policy."""
    policy = nn.Linear(1, 1, bias=False)
    nn.init.constant_(policy.weight, value)
    return FrozenCopy(policy)


def test_a_mixture_weighs_log_likelihoods():
    mixture = ReferenceMixture([single(0.8), single(1.5)], [0.2, 0.8])
    assert mixture(weights).item() == pytest.approx(0.2 * 0.8 + 0.8 * 1.5)
    asked = []
    ReferenceMixture([single(0.8), single(1.5)], [0.0, 1.0])(lambda model: asked.append(1) or weights(model))
    assert len(asked) == 1


@pytest.mark.parametrize("wrong", [[0.5, 0.4], [1.5, -0.5], [1.0]])
def test_weights_of_a_mixture_add_up_to_one(wrong):
    with pytest.raises(Refusal, match="add up to 1"):
        ReferenceMixture([single(0.8), single(1.5)], wrong)


def test_a_mixture_moves_with_its_references_and_is_resumed():
    policy = nn.Linear(2, 1, bias=False)
    mixture = ReferenceMixture([FrozenCopy(policy), Ema(policy, 0.5)], [0.5, 0.5])
    start, held = weights(policy), copy.deepcopy(mixture.state_dict())
    with torch.no_grad():
        policy.weight.add_(1.0)
    mixture.after_step(policy)
    torch.testing.assert_close(mixture(weights), start + 0.25)
    mixture.load_state_dict(held)
    torch.testing.assert_close(mixture(weights), start)
    with pytest.raises(Refusal, match="mixes log-likelihoods"):
        mixture(weights, NOISE)


@pytest.mark.parametrize(("prob", "loss"), [(1.0, 0.1296), (0.8, 0.0016)])
def test_inpo_is_ipo_on_a_mixture_by_hand(prob, loss):
    """eta 0.5, tau 0.1; log p differs by 2 under the policy, 0.8 under the base, 1.5 under the start of the round."""
    mixed = ReferenceMixture([single(0.8), single(1.5)], [0.1 / 0.5, 1 - 0.1 / 0.5])(weights).float()
    pair = PairLogps(torch.tensor([[2.0], [0.0]]), torch.stack([mixed, torch.zeros(1)]), length=torch.ones(2, 1))
    one = torch.ones(1)
    label = PairLabels(prob * one, torch.zeros(2, 1), one)
    assert IPO(0.5)(pair, label).item() == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("by_scores", [False, True])
def test_inpo_has_no_gradient_at_its_closed_form_step(by_scores):
    """Three answers; the expectation over pairs of the start is exact. Targets are P(y beats y') - 1/2, or the
    difference of both win rates against the start."""
    base, start = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.4, 0.4, 0.2]).double()
    wins = torch.tensor([[0.5, 0.7, 0.2], [0.3, 0.5, 0.9], [0.8, 0.1, 0.5]]).double()
    eta, tau = 0.5, 0.1
    rates = wins @ start
    assert torch.allclose(rates, torch.tensor([0.52, 0.50, 0.46]).double())
    logits = ((1 - tau / eta) * start.log() + tau / eta * base.log() + rates / eta).requires_grad_()
    assert torch.allclose(logits.softmax(0), torch.tensor([0.43638, 0.37855, 0.18507]).double(), atol=1e-5)
    mixed = tau / eta * base.log() + (1 - tau / eta) * start.log()
    first, second = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
    pair = PairLogps(
        logits.log_softmax(0)[torch.stack([first, second])], mixed[torch.stack([first, second])], torch.ones(2, 9)
    )
    label = PairLabels(wins[first, second], rates[torch.stack([first, second])], torch.ones(9))
    loss = ScoreMargin(eta) if by_scores else IPO(eta)
    (start[first] * start[second] * loss(pair, label)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-8
    uniform = torch.autograd.grad(loss(replace_policy(pair, logits, first, second), label).mean(), logits)[0]
    assert by_scores or uniform.abs().max() > 1e-3  # from other pairs than the start's, hard verdicts mislead


def replace_policy(pair, logits, first, second):
    return PairLogps(logits.log_softmax(0)[torch.stack([first, second])], pair.reference, pair.length)
