from dataclasses import replace

import pytest
import torch
from tiny import denoiser, draws, image_batch, moved, unet
from torch import Tensor, nn

from diffpo.core.references import NOISE, FrozenCopy, Reference, Score
from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.prediction import Flow, Velocity
from diffpo.diffusion.data.batches import ImageBatch
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.inversion import Inversion, PolicyInversion, ReferenceInversion

EXACT = {"rtol": 1e-4, "atol": 1e-5}


class Output:
    def __init__(self, sample: Tensor):
        self.sample = sample


class Toy(nn.Module):
    """What it says is linear in the latent; each call is noted as rows and time."""

    def __init__(self, slope: float = 0.0, offset: Tensor | float = 1.0):
        super().__init__()
        self.slope, self.offset = slope, offset
        self.calls: list[list[int]] = []

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Output:
        assert len(x) == len(t) == len(encoder_hidden_states)
        self.calls.append(t.tolist())
        return Output(self.slope * x + self.offset)

    @property
    def rows(self) -> int:
        return sum(map(len, self.calls))


def only(batch: ImageBatch, i: int) -> ImageBatch:
    """Row i as a batch of one."""
    cond = batch.cond.map(lambda x: x[:, i : i + 1])
    label = batch.label.map(lambda x: x[..., i : i + 1])
    return ImageBatch(batch.latents[:, i : i + 1], cond, label, batch.row[i : i + 1])


def in_steps(inversion: Inversion, t: Tensor) -> int:
    """Steps that lead to these times, by the grid without jitter."""
    return int((t + 1).sum()) * inversion.steps // 1000


def flow(network: nn.Module) -> Denoiser:
    s = torch.linspace(0.001, 1, 1000)
    return Denoiser(network, 1 - s, s, Flow())


SETTINGS = [
    PolicyInversion(),
    PolicyInversion(steps=5, refinements=1),
    PolicyInversion(steps=5, refinements=2, averaged=(1, 3), only_last=True, jitter=False),
    PolicyInversion(steps=4, eta=0.1),
    PolicyInversion(steps=6, refinements=1, visits=3, eta=0.3, only_last=True),
]


@pytest.mark.parametrize("inversion", SETTINGS)
@pytest.mark.parametrize("prediction", [None, Velocity()])
def test_the_forward_equation_holds_and_nothing_has_a_gradient(inversion, prediction):
    ours = denoiser(prediction=prediction)
    noised = inversion(ours, None, image_batch(), draws())
    assert torch.equal(noised.x_t, ours.noised(noised.batch.latents, noised.eps, noised.t))
    assert not noised.x_t.requires_grad
    assert not noised.eps.requires_grad


@pytest.mark.parametrize("inversion", SETTINGS)
def test_a_batch_agrees_with_its_rows_one_by_one(inversion):
    ours, batch = denoiser(), image_batch(5)
    together = inversion(ours, None, batch, draws(5))
    apart = [inversion(ours, None, only(batch, i), draws(5).of([i])) for i in range(5)]
    for name in ("x_t", "eps"):
        rows = torch.stack([getattr(noised, name) for noised in apart], dim=2).flatten(1, 2)
        torch.testing.assert_close(getattr(together, name), rows, rtol=1e-5, atol=1e-5)
    assert together.t.tolist() == torch.stack([noised.t for noised in apart], dim=1).flatten().tolist()


@pytest.mark.parametrize("inversion", [PolicyInversion(), PolicyInversion(refinements=3), PolicyInversion(steps=3)])
def test_a_network_that_always_says_the_same_noise_implies_it(inversion):
    e = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    noised = inversion(denoiser(Toy(offset=e)), None, image_batch(), draws())
    torch.testing.assert_close(noised.eps, e.expand_as(noised.eps), **EXACT)


@pytest.mark.parametrize("refinements", [0, 1])
def test_on_a_straight_path_steps_add_up_to_the_distance_in_time(refinements):
    """dx = u dsigma: a constant velocity u leads from x_0 to x_0 + sigma u."""
    ours, batch = flow(Toy(offset=2.0)), image_batch()
    noised = PolicyInversion(refinements=refinements)(ours, None, batch, draws())
    sigma = ours.noise(noised.t)
    torch.testing.assert_close(noised.x_t, batch.latents + 2.0 * sigma, **EXACT)


def test_deterministic_sampling_goes_back_where_inversion_came_from():
    """The more often a step's noise is predicted where the step leads to, the more exactly: implicit Euler."""
    ours, batch = denoiser(Toy(slope=0.4, offset=0.1)), image_batch()

    def missed(refinements: int, averaged: tuple[int, int] | None = None) -> float:
        inversion = PolicyInversion(10, refinements, averaged, jitter=False)
        noised = inversion(ours, None, batch, draws())
        errors = []
        for i, t in enumerate(noised.t.tolist()):
            x = noised.x_t[:, i : i + 1]
            for time in range(t, 0, -100):
                now, before = torch.tensor([time]), torch.tensor([time - 100])
                eps = ours.eps(x, now, only(batch, i).cond)
                x_0 = (x - ours.noise(now) * eps) / ours.signal(now)
                x = x_0 if time == 99 else ours.noised(x_0, eps, before)
            errors.append((x - batch.latents[:, i : i + 1]).square().mean().item())
        return sum(errors)

    assert missed(1) < 0.4 * missed(0)
    assert missed(8, (8, 9)) < 1e-4 * missed(0)


@pytest.mark.parametrize(
    ("inversion", "per_step", "at_the_end"),
    [
        (PolicyInversion(jitter=False), 1, 0),
        (PolicyInversion(5, refinements=2, jitter=False), 3, 0),
        (PolicyInversion(5, refinements=2, only_last=True, jitter=False), 1, 2),
    ],
)
def test_who_has_arrived_costs_nothing_more(inversion, per_step, at_the_end):
    network, b = Toy(), 40
    t = inversion(denoiser(network), None, image_batch(b), draws(b)).t
    assert network.rows == 2 * (per_step * in_steps(inversion, t) + at_the_end * b)


def test_a_walk_that_is_visited_several_times_is_gone_once():
    network, inversion = Toy(), PolicyInversion(visits=4, jitter=False)
    noised = inversion(denoiser(network), None, image_batch(), draws())
    by_visit = noised.t.view(4, 3)
    assert network.rows == 2 * in_steps(inversion, by_visit.amax(0))
    assert all(len(set(times)) == 4 for times in by_visit.T.tolist())
    assert noised.batch.row == (0, 1, 2) * 4


def test_visits_find_what_a_single_visit_finds():
    """Same walk, same times: the first visit is the one that is made if there is only one."""
    ours, batch = denoiser(), image_batch()
    once = PolicyInversion(refinements=1)(ours, None, batch, draws())
    often = PolicyInversion(refinements=1, visits=7)(ours, None, batch, draws())
    assert torch.equal(once.t, often.t[:3])
    torch.testing.assert_close(once.x_t, often.x_t[:, :3], rtol=1e-5, atol=1e-5)


def test_times_are_those_of_the_grid_and_all_alike():
    t = PolicyInversion(10, jitter=False)(denoiser(Toy()), None, image_batch(1000), draws(1000)).t
    times, counts = t.unique(return_counts=True)
    assert times.tolist() == [99, 199, 299, 399, 499, 599, 699, 799, 899, 999]
    assert (counts - 100).abs().max() < 40


def test_with_jitter_all_times_but_the_first_occur():
    t = PolicyInversion(10)(denoiser(Toy()), None, image_batch(3000), draws(3000)).t
    assert (t.min(), t.max()) == (1, 999)
    assert len(t.unique()) > 900
    assert abs(t.float().mean() - 500) < 20


def test_the_network_is_told_the_time_that_a_step_leads_to():
    network = Toy()
    noised = PolicyInversion(4, refinements=1, jitter=False)(denoiser(network), None, image_batch(1), draws(1))
    assert network.calls == [[time] * 2 for time in (249, 499, 749, 999) if time <= noised.t.item() for _ in "ab"]


def test_noise_on_the_way_is_each_sides_own_and_a_share_of_the_posteriors_deviation():
    """One step before the last, nothing follows that could change what was added at the last one."""
    batch = image_batch(400)
    batch = replace(batch, latents=batch.latents[:1].expand_as(batch.latents))
    ours = denoiser(Toy())
    exact = PolicyInversion(2, jitter=False)(ours, None, batch, draws(400))
    noisy = PolicyInversion(2, eta=0.5, jitter=False)(ours, None, batch, draws(400))
    moved_by = noisy.x_t - exact.x_t
    late = exact.t == 999
    assert torch.equal(moved_by[:, ~late], torch.zeros_like(moved_by[:, ~late]))
    before, after = (1 - ours.a[t].square() for t in (499, 999))
    variance = before / after * (1 - (1 - after) / (1 - before))  # DDIM, eq. 16
    assert abs(moved_by[:, late].std() / (0.5 * variance.sqrt()) - 1) < 0.02
    assert abs(torch.corrcoef(moved_by[:, late].flatten(1))[0, 1]) < 0.02


def test_without_noise_equal_sides_stay_equal():
    batch = image_batch()
    batch = replace(batch, latents=batch.latents[:1].expand_as(batch.latents))
    noised = PolicyInversion(refinements=1)(denoiser(), None, batch, draws())
    torch.testing.assert_close(noised.eps[0], noised.eps[1], rtol=1e-5, atol=1e-5)


def test_policy_or_reference_inverts():
    policy, batch = denoiser(unet(0)), image_batch()
    reference = FrozenCopy(policy.unet)
    same = [kind()(policy, reference, batch, draws()).x_t for kind in (PolicyInversion, ReferenceInversion)]
    assert torch.equal(*same)
    moved(policy.unet)
    by_policy, by_reference = (
        kind()(policy, reference, batch, draws()).x_t for kind in (PolicyInversion, ReferenceInversion)
    )
    assert torch.equal(by_reference, same[0])
    assert (by_policy - same[0]).abs().max() > 1e-3


def test_only_what_does_not_move_with_the_policy_can_be_remembered():
    class Asked(Reference):
        def __call__(self, score: Score, what: str = "") -> Tensor:
            assert what == NOISE
            return score(Toy())

    ReferenceInversion()(denoiser(), Asked(), image_batch(), draws())
    assert "steps=7" in str(ReferenceInversion(7).fixed)
    assert ReferenceInversion(visits=2).fixed is None
    assert PolicyInversion().fixed is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steps": 0}, "steps >= 1"),
        ({"refinements": -1}, "refinements >= 0"),
        ({"eta": 1.5}, r"eta in \[0, 1\]"),
        ({"visits": 11}, "A walk of 10 steps has 1 to 10 visits, got 11"),
        ({"refinements": 1, "averaged": (1, 3)}, r"predictions 0 to 1; averaged \(1, 3\)"),
        ({"averaged": (1, 1)}, r"averaged \(1, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(changed, said):
    with pytest.raises(Refusal, match=said):
        PolicyInversion(**changed)


def test_a_grid_finer_than_the_schedule_is_refused():
    with pytest.raises(Refusal, match="in 501 steps needs .* at least 1002 timesteps, this one has 1000; lower"):
        PolicyInversion(501)(denoiser(Toy()), None, image_batch(), draws())


@pytest.mark.parametrize("only_last", [False, True])
def test_where_weights_are_split_over_processes_all_make_the_same_number_of_calls(monkeypatch, only_last):
    """FSDP2 gathers weights at each call; what is called too often changes nothing."""
    settings = PolicyInversion(6, refinements=1, only_last=only_last)
    network = Toy(slope=0.3)
    plain = settings(denoiser(network), None, image_batch(), draws())
    monkeypatch.setattr("diffpo.diffusion.objective.inversion.is_sharded", lambda unet: True)
    calls = []
    for seed in range(5):
        network.calls.clear()
        again = settings(denoiser(network), None, image_batch(), draws(seed=seed))
        calls.append(len(network.calls))
        if seed == 0:
            assert torch.equal(plain.x_t, again.x_t)
    assert calls == [12] * 5


@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_the_times_that_are_met_are_those_of_the_grid(steps, jitter):
    noising = PolicyInversion(steps=steps, jitter=jitter)
    drawn = set(noising.grid(30, draws(2000)).flatten().tolist())
    assert set(noising.met(30).tolist()) == drawn
