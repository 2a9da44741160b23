import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling
from tiny import denoiser, draws, image_batch

from diffpo.core.refusal import Refusal
from diffpo.diffusion.objective.noising import Among, ForwardNoise, LogitNormal, Shifted, Skewed, Uniform


def test_forward_equation_holds():
    ours, batch = denoiser(), image_batch()
    noised = ForwardNoise()(ours, None, batch, draws())
    torch.testing.assert_close(noised.x_t, ours.noised(batch.latents, noised.eps, noised.t))


def test_sides_share_noise_and_time_and_rows_do_not():
    noised = ForwardNoise()(denoiser(), None, image_batch(), draws())
    assert torch.equal(noised.eps[0], noised.eps[1])
    assert noised.t.shape == (3,)
    assert not torch.equal(noised.eps[0, 0], noised.eps[0, 1])


def test_times_cover_the_whole_schedule():
    t = ForwardNoise()(denoiser(), None, image_batch(2000), draws(2000)).t
    assert t.min() < 10
    assert t.max() > 989
    assert abs(t.float().mean() - 499.5) < 20


def test_every_way_to_draw_times_keeps_the_noise():
    noised = [
        ForwardNoise(times)(denoiser(), None, image_batch(), draws())
        for times in (Uniform(), Uniform(500), Among([249]), Skewed())
    ]
    assert all(torch.equal(other.eps, noised[0].eps) for other in noised[1:])


def test_bounded_times_stay_within_their_bounds():
    t = Uniform(200, 300)(1000, draws(2000))
    assert (t.min(), t.max()) == (200, 299)


@pytest.mark.parametrize(("low", "high"), [(-1, 10), (10, 10), (0, 1001)])
def test_bounds_outside_the_schedule_are_refused(low, high):
    with pytest.raises(Refusal, match=f"0 <= low < high <= 1000, got low {low}, high {high}"):
        Uniform(low, high)(1000, draws())


def test_listed_times_come_up_alike_and_no_others():
    t = Among([249, 499, 749, 999])(1000, draws(2000))
    times, counts = t.unique(return_counts=True)
    assert times.tolist() == [249, 499, 749, 999]
    assert (counts - 500).abs().max() < 60


@pytest.mark.parametrize("times", [[], [1000], [-1, 5]])
def test_listed_times_outside_the_schedule_are_refused(times):
    with pytest.raises(Refusal, match=r"Among needs times from 0 to 999, got \["):
        Among(times)(1000, draws())


def test_skewed_times_fall_off_by_gamma_per_level():
    """Gamma one half over two levels: two thirds in the noisier half; to the letter, P(noisiest time) = 1 - gamma."""
    halves = Skewed(0.5, levels=2)(1000, draws(3000)) >= 500
    assert abs(halves.float().mean() - 2 / 3) < 0.03
    letter = Skewed(0.9, levels=1000)(1000, draws(3000))
    assert abs((letter == 999).float().mean() - 0.1) < 0.02
    assert abs((letter == 998).float().mean() - 0.09) < 0.02


def test_hardly_skewed_times_are_uniform():
    t = Skewed(0.999, levels=1)(1000, draws(3000))
    assert abs(t.float().mean() - 499.5) < 20
    assert t.min() >= 0
    assert t.max() <= 999


@pytest.mark.parametrize("changed", [{"gamma": 1.0}, {"gamma": 0.0}, {"levels": 0}])
def test_a_skew_that_is_none_is_refused(changed):
    with pytest.raises(Refusal, match=r"gamma in \(0, 1\) and levels > 0"):
        Skewed(**changed)


@pytest.mark.parametrize(
    "times", [Uniform(), Uniform(100, 300), Uniform(900), Among([249, 499]), Skewed(levels=3)], ids=str
)
def test_the_times_that_are_met_are_those_that_are_drawn(times):
    met = set(times.met(1000).tolist())
    assert set(ForwardNoise(times).met(1000).tolist()) == met
    assert set(times(1000, draws(3000)).tolist()) <= met
    assert set(times.met(20).tolist()) <= set(range(20))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.5)])
def test_logit_normal_times_are_distributed_as_those_of_diffusers(mean, std):
    """Whose draw indexes a falling table: its mean has the other sign."""
    n, table = 20000, FlowMatchEulerDiscreteScheduler().timesteps
    density = compute_density_for_timestep_sampling(
        "logit_normal", n, logit_mean=-mean, logit_std=std, generator=torch.Generator().manual_seed(0)
    )
    theirs = table[(density * 1000).long()]
    ours = LogitNormal(mean, std)(1000, draws(n)).float() + 1
    at = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(ours.quantile(at), theirs.quantile(at), rtol=0, atol=12.0)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 6.0])
def test_shifted_times_are_the_nearest_to_those_of_a_shifted_table_of_diffusers(shift):
    table = FlowMatchEulerDiscreteScheduler(shift=shift).timesteps.flip(0)
    ours = Shifted(Uniform(), shift).moved(torch.arange(1000), 1000) + 1
    assert (ours - table).abs().max() <= 0.51
    assert Shifted(Uniform(), shift).met(1000).max() == 999


@pytest.mark.parametrize("wrong", [lambda: LogitNormal(std=0.0), lambda: Shifted(shift=0.0)])
def test_densities_that_are_none_are_refused(wrong):
    with pytest.raises(Refusal, match="needs a positive s"):
        wrong()
