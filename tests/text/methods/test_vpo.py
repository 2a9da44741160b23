from dataclasses import replace

import pytest
import torch
from tiny_text import language_model, token_batch

from diffpo.core.draws import Draws
from diffpo.core.needs import Candidates
from diffpo.core.pair import PairLabels, PairLogps
from diffpo.core.references import FrozenCopy
from diffpo.core.refusal import Refusal
from diffpo.losses.likelihood import RPO
from diffpo.losses.logistic import Sigmoid
from diffpo.losses.reference_free import SimPO
from diffpo.text.methods.vpo import VPO
from diffpo.text.model.likelihoods import token_logps
from diffpo.text.objective.preference import SequencePreference

DRAWS = Draws(0, (0, 0, 0), (0, 1, 2))
BATCH = token_batch(k=3)
LABEL = BATCH.label
PAIRS = replace(
    BATCH,
    **{name: getattr(BATCH, name)[:2] for name in ("ids", "attended", "scored", "part")},
    label=replace(LABEL, score=LABEL.score[:2]),
)


class Told(SequencePreference):
    """Log-ratios that are known."""

    def pair(self, policy, reference, batch):
        ratios = torch.tensor([[0.5], [-0.3], [-1.0]])
        return PairLogps(ratios, torch.zeros(3, 1), torch.ones(3, 1))


ONE = replace(token_batch(k=3, b=1), label=PairLabels(torch.ones(1), torch.zeros(3, 1), torch.ones(1)))


def gradient(objective, batch, seed: int = 0) -> torch.Tensor:
    model = language_model(seed)
    objective(model, FrozenCopy(language_model(1 - seed)), batch, DRAWS).loss.backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def likelihoods_gradient(number: int) -> torch.Tensor:
    """Of the mean log-likelihood of one candidate of each row."""
    model = language_model()
    token_logps(model, BATCH).sum(-1)[number].mean().backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


@pytest.mark.parametrize(
    ("alpha", "floor", "loss"), [(0.0, -9.0, 0.653947), (1.0, -9.0, 0.553947), (1.0, -0.4, 0.613947)]
)
def test_the_loss_by_hand(alpha, floor, loss):
    """-log sigmoid(0.1 (0.5 + 0.3)) + alpha 0.1 max(-1, floor)."""
    step = VPO(Told(Sigmoid(0.1)), alpha, floor)(torch.nn.Identity(), None, ONE, DRAWS)
    assert step.loss.item() == pytest.approx(loss, abs=1e-6)
    assert step.metrics["calibration"].tolist() == [-1.0]


def test_without_the_term_the_pairs_alone_are_learned():
    torch.testing.assert_close(
        gradient(VPO(alpha=0.0), BATCH), gradient(SequencePreference(), PAIRS), atol=1e-6, rtol=1e-4
    )


def test_online_the_likelihood_of_the_sample_falls():
    """The term's gradient is beta times that of the sample's log-likelihood, which a step descends."""
    term = gradient(VPO(alpha=1.0, floor=-1e6), BATCH) - gradient(VPO(alpha=0.0), BATCH)
    torch.testing.assert_close(term, 0.1 * likelihoods_gradient(2), atol=1e-6, rtol=1e-3)


def test_a_sample_below_the_floor_teaches_no_more():
    """Log-ratios -0.61, -0.09 and -0.08, floor -0.3."""
    term = gradient(VPO(alpha=1.0, floor=-0.3), BATCH, 1) - gradient(VPO(alpha=0.0), BATCH, 1)
    model, other = language_model(1), language_model()
    logps = token_logps(model, BATCH).sum(-1)[2]
    above = logps - token_logps(other, BATCH).sum(-1)[2] > -0.3
    assert above.tolist() == [False, True, True]
    (0.1 * (above * logps).sum() / 3).backward()
    expected = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    torch.testing.assert_close(term, expected, atol=1e-6, rtol=1e-3)


def test_offline_with_the_chosen_answer_as_sample_it_is_rpo():
    """There the term is taken away: the gradient of DPO less alpha beta that of log p(chosen)."""
    ours = gradient(SequencePreference(Sigmoid(0.1)), PAIRS) - 0.5 * 0.1 * likelihoods_gradient(0)
    torch.testing.assert_close(ours, gradient(SequencePreference(RPO(0.1, eta=0.5)), PAIRS), atol=1e-6, rtol=1e-3)


def test_the_value_of_a_calibrated_reward_is_what_the_term_says():
    """J*(r) = max E[r] - beta KL = -beta E_cal[log pi_r / pi_ref] if E_cal[r] = 0, samples being the reference's."""
    reference = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    reward = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
    reward, beta = reward - (reference * reward).sum(), 0.7
    best = (reference.log() + reward / beta).softmax(0)
    value = (best * reward).sum() - beta * (best * (best / reference).log()).sum()
    term = -beta * (reference * (best / reference).log()).sum()
    assert value.item() == pytest.approx(term.item(), abs=1e-10)
    assert value > 0


def test_rows_of_three_and_a_loss_with_a_reference_are_needed():
    assert VPO().requires.candidates == Candidates(3, 3, VPO().requires.candidates.remedy)
    for wrong in ({"alpha": -0.1}, {"floor": 1.0}):
        with pytest.raises(Refusal, match="at least 0"):
            VPO(**wrong)
    with pytest.raises(Refusal, match="SimPO has none"):
        VPO(SequencePreference(SimPO()))
