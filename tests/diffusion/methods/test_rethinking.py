from functools import partial

import pytest
import torch
from tiny import denoiser, draws, image_batch, moved, unet
from tiny_runs import fit_points, scorer, stored, weights
from torch import nn

from diffpo.core.pair import PairLabels
from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.diffusion.methods.dspo import DSPO
from diffpo.diffusion.methods.inpo import InPO
from diffpo.diffusion.methods.rethinking import BoundedUpdates
from diffpo.diffusion.objective.inversion import ReferenceInversion
from diffpo.diffusion.objective.preference import DenoisingPreference


def number(value: float) -> nn.Module:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def errors(model: nn.Module) -> torch.Tensor:
    """The network's one weight is the error of chosen sides; that of rejected ones is not to matter."""
    return torch.stack([model.weight[0, 0].expand(2), torch.full((2,), 9.0)])


def walk(reference: BoundedUpdates, policy: nn.Module, steps: int) -> list[float]:
    """The chosen error of the reference in each step, while the policy's grows by 1 per step."""
    seen = []
    for _ in range(steps):
        seen.append(reference(errors)[0, 0].item())
        with torch.no_grad():
            policy.weight += 1
        reference.after_step(policy)
    return seen


def test_becomes_the_policy_every_tau_steps():
    policy = number(0.0)
    assert walk(BoundedUpdates(policy, tau=2, delta=100.0), policy, 6) == [0, 0, 2, 2, 4, 4]


def test_stands_still_where_it_first_exceeded_delta():
    """At 2 it is 2 above the base, which is allowed; at 4 it is 4 above."""
    policy = number(0.0)
    assert walk(BoundedUpdates(policy, tau=2, delta=3.0), policy, 10) == [0, 0, 2, 2, 4, 4, 4, 4, 4, 4]


def test_is_measured_once_per_update():
    policy, asked = number(0.0), []
    reference = BoundedUpdates(policy, tau=2)

    def score(model: nn.Module) -> torch.Tensor:
        asked.append(model)
        return errors(model)

    for _ in range(4):
        reference(score)
        reference.after_step(policy)
    assert asked.count(reference.base) == 1
    assert len(asked) == 5


def test_validation_does_not_move_it():
    policy = number(0.0)
    reference = BoundedUpdates(policy, tau=1, delta=1.5)
    walk(reference, policy, 1)
    with torch.no_grad():
        reference(lambda model: 100 * errors(model))
    assert walk(reference, policy, 2) == [1, 2]


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_checkpoint_after_any_step_continues_the_walk(cut):
    policy = number(0.0)
    whole = walk(BoundedUpdates(policy, tau=3, delta=4.0), policy, 12)
    policy = number(0.0)
    before = BoundedUpdates(policy, tau=3, delta=4.0)
    first = walk(before, policy, cut)
    after = BoundedUpdates(number(0.0), tau=3, delta=4.0)
    after.load_state_dict(before.state_dict())
    assert first + walk(after, policy, 12 - cut) == whole


def test_a_resumed_run_has_the_same_bits(tmp_path):
    """A checkpoint after step 4, where an update has just been made and not been measured."""
    settings = {"steps": 7, "save_every": 1}
    updates = partial(BoundedUpdates, tau=2, delta=0.5)
    policy = scorer()
    fit_points(tmp_path / "whole", policy, reference=updates(policy), **settings)
    policy = scorer()
    fit_points(tmp_path / "cut", policy, reference=updates(policy), **settings | {"steps": 4})
    policy = scorer()
    fit_points(tmp_path / "cut", policy, resume="latest", reference=updates(policy), **settings)
    assert torch.equal(stored(tmp_path / "cut", 7), stored(tmp_path / "whole", 7))
    frozen = scorer()
    fit_points(tmp_path / "frozen", frozen, **settings)
    assert not torch.equal(weights(frozen), weights(policy))


def test_before_the_first_update_it_is_a_frozen_copy():
    policy = denoiser(moved(unet(), 0.02))
    losses = [
        DenoisingPreference()(policy, reference, image_batch(label=PairLabels.hard(3)), draws()).loss
        for reference in (FrozenCopy(unet()), BoundedUpdates(unet()))
    ]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)


def test_an_objective_that_asks_for_something_else_is_refused():
    policy = denoiser()
    with pytest.raises(Refusal, match=r"needs errors of shape \(k, b\), this objective asks for \(2, 3, 4, 8, 8\)"):
        DSPO()(policy, BoundedUpdates(policy.unet), image_batch(), draws())


def test_it_inverts_pictures_like_a_frozen_copy():
    policy = denoiser()
    losses = [
        InPO(noising=ReferenceInversion(3))(policy, kind(policy.unet), image_batch(), draws()).loss
        for kind in (FrozenCopy, BoundedUpdates)
    ]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)


def test_a_period_of_nothing_is_refused():
    with pytest.raises(Refusal, match="tau of at least 1, got 0"):
        BoundedUpdates(number(0.0), tau=0)
