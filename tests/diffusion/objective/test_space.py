from dataclasses import replace

import pytest
import torch
from tiny import denoiser, draws, image_batch, moved, unet

from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.prediction import Epsilon, Flow, Velocity
from diffpo.diffusion.methods.npo import JointGuidance
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.checks import silent_times
from diffpo.diffusion.objective.noising import ForwardNoise
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.diffusion.objective.space import NoiseSpace, OutputSpace


def flow() -> Denoiser:
    s = torch.arange(1, 1001) / 1000
    return Denoiser(unet(), 1 - s, s, Flow())


def squared(space, policy):
    noised = ForwardNoise()(policy, None, image_batch(), draws())
    return space(policy, noised).square().flatten(2).mean(-1), policy.a[noised.t]


def test_an_error_of_noise_on_a_flow_is_that_of_velocity_times_the_square_of_the_signal():
    policy = flow()
    noise, a = squared(NoiseSpace(), policy)
    velocity, _ = squared(OutputSpace(), policy)
    torch.testing.assert_close(noise, a.square() * velocity)


@pytest.mark.parametrize(("prediction", "factor"), [(Epsilon(), 0), (Velocity(), 2)])
def test_in_output_space_epsilon_is_noise_space_and_v_lacks_the_square_of_the_signal(prediction, factor):
    policy = denoiser(prediction=prediction)
    noise, a = squared(NoiseSpace(), policy)
    output, _ = squared(OutputSpace(), policy)
    torch.testing.assert_close(noise, a**factor * output, rtol=1e-4, atol=1e-6)


def test_the_space_reaches_loss_and_curves():
    policy = flow()
    reference = FrozenCopy(policy.unet)
    moved(policy.unet)
    steps = {
        space: DenoisingPreference(space=space)(policy, reference, image_batch(), draws())
        for space in (NoiseSpace(), OutputSpace())
    }
    for space, step in steps.items():
        torch.testing.assert_close(step.metrics["mse/policy_chosen"], squared(space, policy)[0][0].detach())
    noise, output = steps.values()
    assert output.metrics["rewards/margins"].abs().sum() > noise.metrics["rewards/margins"].abs().sum()


def test_answers_of_a_reference_in_one_space_are_not_those_of_another():
    plain, output = DenoisingPreference(), DenoisingPreference(space=OutputSpace())
    assert plain.requires.cacheable_by == str(ForwardNoise())
    assert output.requires.cacheable_by not in (None, plain.requires.cacheable_by)


def test_only_errors_of_noise_are_silent_where_nothing_of_a_picture_is_left():
    policy = flow()
    assert "t = 999" in silent_times(DenoisingPreference(), policy)
    assert silent_times(DenoisingPreference(space=OutputSpace()), policy) == ""


def test_a_residual_of_guided_noise_has_no_other_space():
    with pytest.raises(Refusal, match="JointGuidance .* noise alone; leave objective.space out"):
        replace(JointGuidance(), space=OutputSpace())
