from dataclasses import replace

import pytest
import torch
from tiny import WIDTH, denoiser, draws, image_batch

from diffpo.core.draws import Draws
from diffpo.core.needs import Candidates
from diffpo.core.references import Ema, FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.prediction import Epsilon, Flow, Velocity
from diffpo.diffusion.data.batches import Conditioning
from diffpo.diffusion.methods.self_npo import SelfNPO, draw_later, noised_from
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.trajectories import FromNoise, FromPictures

T = torch.tensor([0, 400, 700])
S = torch.tensor([1, 450, 998])


def batch_with_empty(b: int = 3):
    empty = torch.randn(1, 1, 5, WIDTH, generator=torch.Generator().manual_seed(9))
    return replace(image_batch(b), empty=Conditioning({"prompt": empty}))


def straight() -> Denoiser:
    s = torch.linspace(0.001, 0.999, 1000)
    return Denoiser(denoiser().unet, 1 - s, s, Flow())


@pytest.mark.parametrize("policy", [denoiser(), straight()], ids=["variance preserving", "straight"])
def test_noise_added_to_noisy_latents_makes_the_marginal_of_the_later_time(policy):
    """x_t = a_t x_0 + s_t n becomes a_s x_0 + s_s n': the two noises' variances add up to s_s^2."""
    rng = torch.Generator().manual_seed(0)
    x_0, first, second = torch.randn(3, 1, 3, 4, 64, 64, generator=rng)
    x_s = noised_from(policy, policy.noised(x_0, first, T), T, S, second)
    rest = (x_s - policy.signal(S) * x_0).flatten(2).std(-1)
    torch.testing.assert_close(rest, policy.noise(S).flatten(1), rtol=0.02, atol=1e-3)


def test_no_time_later_adds_no_noise():
    policy, x = denoiser(), image_batch().latents
    assert torch.equal(noised_from(policy, x, T, T, torch.full_like(x[:1], 1e6)), x)


def test_later_times_lie_after_the_end_and_reach_the_last():
    shares = torch.linspace(0, 0.999999, 2000)
    found = draw_later(torch.full((2000,), 799), 1000, shares)
    assert found.unique().tolist() == list(range(800, 1000))
    assert draw_later(torch.tensor([998]), 1000, torch.tensor([0.9])).tolist() == [999]


@pytest.mark.parametrize("prediction", [Epsilon(), Velocity(), Flow()])
def test_loss_by_hand(prediction):
    """For one element d off: sqrt(d^2 + c^2) - c, mean over elements, then over rows."""
    policy = denoiser(prediction=prediction)
    objective, reference, batch = SelfNPO(huber=0.1), FrozenCopy(policy.unet), batch_with_empty()
    cut = objective.trajectories(policy, reference, batch.best(), draws())
    s = draw_later(cut.t, 1000, draws().uniform("later 0"))
    x_s = noised_from(policy, cut.x_t, cut.t, s, draws().normal("fresh 0", 4, 8, 8)[None])
    a, sigma, out = policy.signal(s), policy.noise(s), policy.out(x_s, s, cut.batch.cond)
    seen = {Epsilon: (x_s - sigma * out) / a, Velocity: a * x_s - sigma * out, Flow: x_s - sigma * out}
    d = seen[type(prediction)] - cut.x_0
    step = objective(policy, reference, batch, draws())
    torch.testing.assert_close(step.loss, ((d**2 + 0.01).sqrt() - 0.1).mean())


def test_times_say_nothing_of_the_noise(monkeypatch):
    """Draws of one name would share their random bits."""
    names = []
    for kind in ("normal", "uniform", "integers"):
        draw = getattr(Draws, kind)
        monkeypatch.setattr(
            Draws, kind, lambda self, name, *more, draw=draw: names.append(name) or draw(self, name, *more)
        )
    policy = denoiser()
    for trajectories in (FromPictures(), FromNoise(steps=4, truncated=1, visits=2)):
        names.clear()
        SelfNPO(trajectories)(policy, FrozenCopy(policy.unet), batch_with_empty(), draws())
        assert len(names) == len(set(names)) >= 4


def test_weights_of_rows_count():
    policy, batch = denoiser(), batch_with_empty()
    halved = replace(batch, label=batch.label.map(lambda x: x / 2))
    losses = [SelfNPO()(policy, FrozenCopy(policy.unet), some, draws()).loss for some in (batch, halved)]
    torch.testing.assert_close(losses[1], losses[0] / 2)


def test_the_student_alone_gets_a_gradient_and_the_teacher_follows_it():
    policy = denoiser()
    teacher = Ema(policy.unet, decay=0.999)
    SelfNPO()(policy, teacher, batch_with_empty(), draws()).loss.backward()
    assert all(p.grad is None for p in teacher.model.parameters())
    before = teacher.model.conv_in.weight.clone()
    with torch.no_grad():
        policy.unet.conv_in.weight.add_(1.0)
    teacher.after_step(policy.unet)
    torch.testing.assert_close(teacher.model.conv_in.weight, before + 0.001)


def test_the_student_is_told_the_prompt_and_the_chosen_side_is_read_alone():
    policy, told = denoiser(), []
    reference, batch = FrozenCopy(policy.unet), batch_with_empty()
    policy.unet.register_forward_pre_hook(
        lambda _, args, kwargs: told.append((len(args[0]), kwargs["encoder_hidden_states"])), with_kwargs=True
    )
    SelfNPO()(policy, reference, batch, draws())
    ((n, states),) = told
    assert n == 3
    assert torch.equal(states, batch.cond.states["prompt"][0])


def test_prompts_are_enough_from_noise():
    """Latents are not read: any others give the same bits."""
    policy, batch = denoiser(), batch_with_empty()
    objective = SelfNPO(FromNoise(steps=4, truncated=1, visits=2))
    others = replace(batch, latents=torch.zeros_like(batch.latents))
    one, two = (objective(policy, FrozenCopy(policy.unet), some, draws()) for some in (batch, others))
    torch.testing.assert_close(one.loss, two.loss, rtol=1e-4, atol=1e-5)
    assert len(one.metrics["huber/policy"]) == 6
    assert (objective.requires.candidates, SelfNPO().requires.candidates) == (Candidates(0), Candidates(1))


def test_a_row_does_not_see_its_batch():
    policy, batch = denoiser(), batch_with_empty()
    objective, reference = SelfNPO(FromNoise(steps=4, truncated=2, visits=3)), FrozenCopy(policy.unet)
    together = objective(policy, reference, batch, draws()).metrics["huber/policy"].view(3, 3)
    for row in range(3):
        alone = replace(
            batch,
            latents=batch.latents[:, [row]],
            cond=batch.cond.map(lambda x, row=row: x[:, [row]]),
            label=batch.label.map(lambda x, row=row: x[..., [row]]),
            row=(row,),
        )
        found = objective(policy, reference, alone, draws().of([row])).metrics["huber/policy"]
        torch.testing.assert_close(found, together[:, row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("huber", [0.0, -1.0])
def test_a_huber_that_is_not_positive_is_refused(huber):
    with pytest.raises(Refusal, match="needs a positive huber"):
        SelfNPO(FromPictures(), huber)
