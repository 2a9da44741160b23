from dataclasses import replace

import pytest
import torch
from tiny import WIDTH, denoiser, draws, image_batch, scheduler

from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.prediction import Epsilon, Flow, Velocity
from diffpo.diffusion.data.batches import Conditioning
from diffpo.diffusion.objective.trajectories import FromNoise, FromPictures, guide_output


def batch_with_empty(b: int = 3):
    empty = torch.randn(1, 1, 5, WIDTH, generator=torch.Generator().manual_seed(9))
    return replace(image_batch(b), empty=Conditioning({"prompt": empty})).best()


def calls(network) -> list[int]:
    """Rows of each call from now on."""
    rows = []
    network.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    return rows


def test_the_grid_is_that_of_25_steps():
    times = FromPictures().times(denoiser(), torch.arange(26))
    assert times.tolist() == [0, *range(39, 1000, 40)]


def test_trajectories_end_k_steps_further_down_and_never_below_0():
    policy, batch = denoiser(), batch_with_empty(40)
    begins = FromPictures().begins(draws(40))[:, 0]
    cut = FromPictures()(policy, FrozenCopy(policy.unet), batch, draws(40))
    assert cut.t.tolist() == [max(40 * (int(n) - 5) - 1, 0) for n in begins]
    assert set(begins.tolist()) <= set(range(1, 26))


def test_steps_are_those_of_diffusers_ddim():
    """Trailing times 999, 959, ...: the same grid; a trajectory of all steps but the last one."""
    policy, batch = denoiser(), batch_with_empty(1)
    theirs = scheduler(timestep_spacing="trailing", steps_offset=0)
    theirs.set_timesteps(25)
    x = noise = draws(1).normal("noise", 4, 8, 8)
    with torch.no_grad():
        for t in theirs.timesteps[:24]:
            said = policy.unet(x, t, encoder_hidden_states=batch.cond.states["prompt"][0]).sample
            x = theirs.step(said, t, x).prev_sample
    walk = FromNoise(visits=25)
    begun = walk.begun(policy, batch, torch.arange(25, 0, -1)[None], draws(1)).detach()
    torch.testing.assert_close(begun[0, :1], noise)
    torch.testing.assert_close(begun[0, 24:], x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", [Epsilon(), Velocity(), Flow()])
def test_the_picture_and_the_noise_make_the_latents_again(prediction):
    policy = denoiser(prediction=prediction)
    x, out, t = (torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    t = torch.tensor([10, 500, 990])
    a, s = policy.signal(t), policy.noise(t)
    if prediction == Flow():
        a = 1 - s
    together = a * prediction.x_0(out, x, a, s) + s * prediction.eps(out, x, a, s)
    torch.testing.assert_close(together, x, rtol=1e-4, atol=1e-4)


def test_arrived_trajectories_stay_where_they_are():
    """One that begins one step before the end: further steps change nothing."""
    policy, batch = denoiser(), batch_with_empty(1)
    walks = [Begun(truncated=k) for k in (1, 4)]
    one, four = (walk(policy, FrozenCopy(policy.unet), batch, draws(1)) for walk in walks)
    assert torch.equal(one.x_t, four.x_t)
    assert torch.equal(one.x_0, four.x_0)


class Begun(FromPictures):
    def begins(self, draws):
        return torch.ones(len(draws.row), 1, dtype=torch.long)


def test_guidance_of_minus_one_does_not_hear_the_prompt_and_none_hears_it_alone():
    policy, batch = denoiser(), batch_with_empty()
    x, t = batch.latents, torch.tensor([10, 500, 990])
    conditional, unconditional = policy.out(x, t, batch.cond), policy.out(x, t, batch.unconditional)
    assert torch.equal(guide_output(policy, x, t, batch, -1.0), unconditional)
    assert torch.equal(guide_output(policy, x, t, batch, 0.0), conditional)
    away = guide_output(policy, x, t, batch, -5.0)
    torch.testing.assert_close(away, 5 * unconditional - 4 * conditional)


def test_a_trajectory_costs_k_predictions_and_a_look():
    policy, batch = denoiser(), batch_with_empty()
    reference = FrozenCopy(policy.unet)
    rows = calls(reference.model)
    FromPictures(truncated=3)(policy, reference, batch, draws())
    assert rows == [3] * 4


def test_a_walk_from_noise_is_shared_by_its_visits():
    policy, batch = denoiser(), batch_with_empty()
    reference, walk = FrozenCopy(policy.unet), FromNoise(steps=6, truncated=2, visits=6)
    rows = calls(reference.model)
    cut = walk(policy, reference, batch, draws())
    assert rows == [3] * 5 + [18] * 3
    assert cut.batch.row == (0, 1, 2) * 6
    begins = walk.begins(draws())
    assert [sorted(row) for row in begins.tolist()] == [[1, 2, 3, 4, 5, 6]] * 3
    assert cut.t.tolist() == walk.times(policy, begins.T.flatten() - 2).tolist()


def test_the_teacher_is_the_reference_and_gives_no_gradient():
    policy, batch = denoiser(), batch_with_empty()
    reference, rows = FrozenCopy(policy.unet), calls(policy.unet)
    cut = FromPictures()(policy, reference, batch, draws())
    assert rows == []
    assert not cut.x_0.requires_grad


@pytest.mark.parametrize("truncated", [0, 26])
def test_more_steps_than_there_are_are_refused(truncated):
    with pytest.raises(Refusal, match="1 <= truncated <= steps"):
        FromPictures(truncated=truncated)


def test_more_visits_than_steps_are_refused():
    with pytest.raises(Refusal, match="A walk of 4 steps has 1 to 4 visits, got 5"):
        FromNoise(steps=4, truncated=1, visits=5)
