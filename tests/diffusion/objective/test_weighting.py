import pytest
import torch
from tiny import denoiser, draws, image_batch, moved, scheduler, unet

from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.diffusion.objective.weighting import InverseSNR, SigmoidSNR
from diffpo.losses.logistic import Sigmoid

EVERY_TIME = torch.arange(1000)


def path(a: list[float], s: list[float]) -> Denoiser:
    ours = denoiser()
    return Denoiser(ours.unet, torch.tensor(a), torch.tensor(s), ours.prediction)


def test_inverse_snr_by_hand():
    """s / a is 0.5, 1, 2.5: after min-max, 0, 0.25, 1."""
    weights = InverseSNR()(path([1.0, 1.0, 0.4], [0.5, 1.0, 1.0]), torch.tensor([0, 1, 2]))
    torch.testing.assert_close(weights, torch.tensor([1.0, 1.25, 2.0]))


def test_sigmoid_snr_by_hand():
    """At bias 0 it is s^2 / (a^2 + s^2); at a log SNR equal to the bias, one half."""
    weights = SigmoidSNR(0.0)(path([0.8, 0.6], [0.6, 0.8]), torch.tensor([0, 1]))
    torch.testing.assert_close(weights, torch.tensor([0.36, 0.64]))
    half = SigmoidSNR(1.5)(path([1.0], [torch.tensor(-0.75).exp().item()]), torch.tensor([0]))
    torch.testing.assert_close(half, torch.tensor([0.5]))


@pytest.mark.parametrize("weighting", [InverseSNR(), SigmoidSNR()])
def test_noisier_times_never_count_less(weighting):
    assert (weighting(denoiser(), EVERY_TIME).diff() >= 0).all()


def test_inverse_snr_spans_one_to_two():
    weights = InverseSNR()(denoiser(), EVERY_TIME)
    assert (weights.min(), weights.max()) == (1, 2)


def test_zero_terminal_snr_is_refused_where_it_cannot_be_normalised():
    zero = Denoiser.from_scheduler(unet(), scheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"))
    with pytest.raises(Refusal, match="this base's does; use SigmoidSNR"):
        InverseSNR()(zero, EVERY_TIME)
    assert SigmoidSNR()(zero, EVERY_TIME)[-1] == 1


def test_a_weight_scales_the_margin_of_its_pair():
    reference = FrozenCopy(unet())
    policy = denoiser(moved(unet(), 0.02))
    plain, weighted = (
        DenoisingPreference(Sigmoid(200.0), weighting=weighting)(policy, reference, image_batch(), draws())
        for weighting in (None, SigmoidSNR())
    )
    weights = SigmoidSNR()(policy, draws().integers("timestep", 1000))
    torch.testing.assert_close(weighted.metrics["rewards/margins"], weights * plain.metrics["rewards/margins"])
    assert torch.equal(weighted.metrics["mse/policy_chosen"], plain.metrics["mse/policy_chosen"])
