import math

import torch
from tiny import denoiser, draws, image_batch, pair_logps

from diffpo.core.pair import PairLabels, PairLogps
from diffpo.diffusion.methods.mapo import MaPO
from diffpo.diffusion.objective.preference import DenoisingPreference


def pair(chosen: float, rejected: float) -> PairLogps:
    """With these mean squared errors."""
    errors = torch.tensor([[chosen], [rejected]])
    return PairLogps(-0.5 * errors, torch.zeros(2, 1), torch.ones(2, 1))


def test_phi_starts_at_one_and_falls():
    phi = MaPO().phi(torch.tensor([1e-6, 0.1, 0.5, 1.0, 4.0]))
    torch.testing.assert_close(phi[0], torch.tensor(1.0))
    assert (phi.diff() < 0).all()


def test_phi_and_its_slope_are_finite_without_any_error():
    """At zero terminal SNR and at the end of a flow the error of noise is exactly 0, and 0 / 0 ended runs."""
    error = torch.zeros(1, requires_grad=True)
    phi = MaPO(snr=0.5).phi(error)
    phi.sum().backward()
    assert phi.item() == 1
    assert error.grad is not None
    assert error.grad.item() == -0.25


def test_by_hand():
    """s m = ln 2 and ln 3: phi is ln 2 and ln 3 / 2, their difference 0.143841; T = 10 makes z = 1.43841."""
    loss = MaPO(beta=2.0, snr=1.0, timesteps=10)(pair(math.log(2), math.log(3)), PairLabels.hard(1))
    torch.testing.assert_close(loss, torch.tensor([math.log(2) + 2 * math.log(1 + math.exp(-1.43841))]))


def test_equal_errors_leave_the_fit_and_log_2():
    torch.testing.assert_close(
        MaPO(beta=0.1)(pair(0.3, 0.3), PairLabels.hard(1)), torch.tensor([0.3 + 0.1 * math.log(2)])
    )


def test_a_label_of_zero_is_the_swapped_pair():
    logps, label = pair_logps(), PairLabels.hard(5)
    swapped = PairLogps(logps.policy.flip(0), logps.reference, logps.length)
    wrong = PairLabels(torch.zeros(5), label.score, label.weight)
    torch.testing.assert_close(MaPO(timesteps=1)(logps, wrong), MaPO(timesteps=1)(swapped, label))


def test_needs_no_reference():
    objective = DenoisingPreference(MaPO())
    assert not objective.requires.reference
    step = objective(denoiser(), None, image_batch(), draws())
    chosen, rejected = step.metrics["mse/policy_chosen"], step.metrics["mse/policy_rejected"]
    torch.testing.assert_close(step.metrics["rewards/margins"], 0.05 * (rejected - chosen))
    assert step.loss > chosen.mean()
