import math
from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.training_utils import compute_density_for_timestep_sampling
from tiny import denoiser, draws, image_batch
from torch import nn

from diffpo.core.refusal import Refusal
from diffpo.diffusion.families.flux import Flux
from diffpo.diffusion.model.denoiser import Denoiser
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


BY_TOKENS = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "max_image_seq_len": 4096}


def flow(picture: tuple[int, int, int] = (4, 8, 8), **scheduler):
    """A flow whose network takes 2 x 2 latents as a token, and the shape of a picture's latents."""
    return Denoiser.from_scheduler(nn.Identity(), FlowMatchEulerDiscreteScheduler(**scheduler), Flux()), picture


@pytest.mark.parametrize(
    ("scheduler", "side"),
    [(BY_TOKENS, 32), (BY_TOKENS, 128), (BY_TOKENS | {"max_shift": 0.9, "max_image_seq_len": 8192}, 64)]
    + [(BY_TOKENS | {"base_shift": 1.5, "max_shift": 3.0, "time_shift_type": "linear"}, 64)],
    ids=["FLUX.1 at 256 pixels", "FLUX.1 at 1024", "Qwen-Image at 512", "linear"],
)
def test_times_shifted_by_tokens_have_the_density_of_diffusers_tables(scheduler, side):
    """Of the table that its sampler has for as many tokens, indexed by the density of its training scripts."""
    theirs = FlowMatchEulerDiscreteScheduler(**scheduler)
    config = theirs.config
    bounds = config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
    theirs.set_timesteps(1000, mu=calculate_shift((side // 2) ** 2, *bounds))
    times = Shifted(LogitNormal(), shift=None).on(*flow((16, side, side), **scheduler))
    assert isinstance(times, Shifted)
    exact = times.moved(torch.arange(1000), 1000) + 1
    assert (exact - theirs.timesteps.flip(0)).abs().max() <= 0.51
    n = 4000
    density = compute_density_for_timestep_sampling(
        "logit_normal", n, logit_mean=0.0, logit_std=1.0, generator=torch.Generator().manual_seed(0)
    )
    drawn, at = times(1000, draws(n)).float() + 1, torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(
        drawn.quantile(at), theirs.timesteps[(density * 1000).long()].quantile(at), rtol=0, atol=20.0
    )


def test_each_batch_has_the_shift_of_its_own_shape():
    times = Shifted(Uniform(), shift=None)
    small, large = (times.on(*flow((16, side, side), **BY_TOKENS)) for side in (32, 128))
    assert isinstance(small, Shifted)
    assert isinstance(large, Shifted)
    assert (small.shift, large.shift) == (pytest.approx(math.exp(0.5)), pytest.approx(math.exp(1.15)))
    batch, drawn = image_batch(2000), draws(2000)
    ours = replace(denoiser(), shift=flow(**BY_TOKENS)[0].shift)
    seen = ForwardNoise(times)(ours, None, batch, drawn).t
    assert torch.equal(seen, times.on(ours, batch.latents.shape[2:])(1000, drawn))
    assert (seen > Uniform()(1000, drawn)).float().mean() > 0.9


def test_a_number_is_the_shift_of_every_shape_and_wrapped_times_are_asked_too():
    assert Shifted(Uniform(), 3.0).on(*flow()) == Shifted(Uniform(), 3.0)
    on = flow((16, 128, 128), **BY_TOKENS)
    twice = Shifted(Shifted(Uniform(), shift=None), 2.0).on(*on)
    assert twice == Shifted(Shifted(Uniform(), shift=None).on(*on), 2.0)


def test_a_base_whose_sampler_knows_no_tokens_is_refused():
    with pytest.raises(Refusal, match=r"moves times by no number of tokens .*; give Shifted a shift"):
        Shifted(shift=None).on(*flow(shift=3.0))


@pytest.mark.parametrize("wrong", [lambda: LogitNormal(std=0.0), lambda: Shifted(shift=0.0)])
def test_densities_that_are_none_are_refused(wrong):
    with pytest.raises(Refusal, match="needs a positive s"):
        wrong()


@pytest.mark.parametrize("number", [0.0, -1.0, float("nan"), float("inf")])
def test_times_of_flows_that_are_no_times(number):
    with pytest.raises(Refusal, match=f"Shifted needs a positive shift, got {number}; 1 moves nothing"):
        Shifted(shift=number)
    with pytest.raises(Refusal, match=f"LogitNormal needs a positive std, got {number}; Among"):
        LogitNormal(0.0, number)
    if number not in (0.0, -1.0):
        with pytest.raises(Refusal, match=f"LogitNormal needs a finite mean, got {number}; 0 meets"):
            LogitNormal(number)
