import json

import pytest
import torch
from safetensors.torch import load_file
from tiny import pair_logps
from tiny_losses import MARGIN, at, labels
from tiny_runs import PointPreference, fit_auto_beta, fit_points, share_auto_beta, together, weights

from diffpo.core.pair import PairLogps
from diffpo.core.refusal import Refusal
from diffpo.losses.adaptive import AutoBeta
from diffpo.losses.combined import Sum
from diffpo.losses.logistic import Sigmoid
from diffpo.losses.margin import IPO
from diffpo.losses.reference_free import ORPO


def trained(margins: list[float]) -> PairLogps:
    return at(torch.tensor(margins, requires_grad=True))


def after(loss: AutoBeta, *steps: list[float]) -> AutoBeta:
    """The loss once it has seen these margins, of one micro-batch a step."""
    for margins in steps:
        loss(trained(margins), labels(1.0, len(margins)))
        loss.after_step(lambda x: x)
    return loss


@pytest.mark.parametrize("margin", [0.01, 3.0])
def test_a_pair_of_typical_margin_has_the_gradient_that_is_asked_for(margin):
    """sigmoid(-beta margin) is the factor that DPO's gradient has."""
    loss = after(AutoBeta(high=1e6, typical=0.2), [margin, -margin])
    assert torch.sigmoid(-loss.beta * torch.tensor(margin)).item() == pytest.approx(0.2)
    assert torch.sigmoid(loss.beta * torch.tensor(margin)).item() == pytest.approx(0.8)


def test_margins_of_twice_the_size_give_the_same_loss_once_the_mean_has_settled():
    margins = [0.3, -0.1, 0.7]
    one, two = (after(AutoBeta(high=1e6), *([[k * m for m in margins]] * 3)) for k in (1, 2))
    torch.testing.assert_close(
        one(at(torch.tensor(margins)), labels(1.0, 3)), two(at(2 * torch.tensor(margins)), labels(1.0, 3))
    )


def test_the_mean_runs_over_steps_by_hand():
    """Mean sizes 2, then 4 with decay 0.75: 2.5; log 4 / 2.5."""
    loss = after(AutoBeta(high=1e6, decay=0.75), [1.0, -3.0], [4.0])
    assert loss.size.value == 2.5
    assert loss.beta.item() == pytest.approx(1.3862944 / 2.5)


def test_micro_batches_of_a_step_count_by_their_pairs():
    loss = AutoBeta(high=1e6)
    for margins in ([1.0, 1.0, 1.0], [5.0]):
        loss(trained(margins), labels(1.0, len(margins)))
    loss.after_step(lambda x: x)
    assert loss.size.value == 2.0


def test_the_first_beta_is_the_highest_also_after_margins_of_zero():
    assert AutoBeta(high=7.0).beta == 7.0
    assert after(AutoBeta(high=7.0), [0.0, 0.0]).beta == 7.0
    assert after(AutoBeta(high=7.0, low=3.0), [100.0]).beta == 3.0


@pytest.mark.parametrize("inner", MARGIN)
def test_a_beta_that_cannot_move_is_its_inner_loss_bitwise(inner):
    fixed = after(AutoBeta(high=inner.beta, low=inner.beta, inner=inner), [2.0])
    assert torch.equal(fixed(pair_logps(), labels(1.0, 5)), inner(pair_logps(), labels(1.0, 5)))


def test_what_a_loss_calls_its_own_beta_does_not_matter():
    small, large = (after(AutoBeta(high=1e6, inner=Sigmoid(beta)), [2.0]) for beta in (0.1, 5000.0))
    torch.testing.assert_close(small(at(0.7), labels(1.0)), large(at(0.7), labels(1.0)))


def test_held_out_pairs_are_not_heard_and_skipped_steps_are_forgotten():
    loss = after(AutoBeta(high=1e6, decay=0.0), [2.0])
    loss(at([100.0]), labels(1.0))
    loss(trained([50.0]), labels(1.0))
    loss.forget()
    assert after(loss, [4.0]).size.value == 4.0


def test_every_part_of_a_sum_moves():
    first, second = AutoBeta(high=5.0), AutoBeta(high=50.0, inner=IPO())
    assert Sum([first, Sigmoid(), second], [1.0, 1.0, 1.0]).moving == (first, second)


@pytest.mark.parametrize("wrong", [{"typical": 0.5}, {"typical": 0.0}, {"decay": 1.0}, {"low": 8.0}, {"high": 0.0}])
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(Refusal, match=f"AutoBeta needs .*{next(iter(wrong))}"):
        AutoBeta(**{"high": 7.0} | wrong)


def test_a_loss_of_probabilities_is_refused_before_a_run():
    need = AutoBeta(high=1.0, inner=ORPO()).needs[0]
    assert need.asker == "AutoBeta"
    assert not need.met([])


# In runs


def test_a_fixed_beta_trains_the_same_bits_and_a_run_logs_its_beta(tmp_path):
    plain = fit_points(tmp_path / "plain", objective=PointPreference(Sigmoid(1.0)))
    fixed = fit_points(tmp_path / "fixed", objective=PointPreference(AutoBeta(high=1.0, low=1.0, inner=Sigmoid(1.0))))
    assert torch.equal(weights(plain), weights(fixed))
    _, beta = fit_auto_beta(tmp_path / "auto", steps=3)
    lines = [json.loads(line) for line in (tmp_path / "auto" / "metrics.jsonl").read_text().splitlines()]
    told = [line["beta"] for line in lines if "beta" in line]
    assert told[:2] == [1000.0, 1000.0]  # margins of the first step are zero
    assert 0 < beta < told[2] < 1000


def test_a_resumed_run_goes_on_with_the_same_mean(tmp_path):
    straight = fit_auto_beta(tmp_path / "straight", save_every=2)
    fit_auto_beta(tmp_path / "halves", steps=2, save_every=2)
    resumed = fit_auto_beta(tmp_path / "halves", "latest", save_every=2)
    assert torch.equal(resumed[0], straight[0])
    assert resumed[1] == straight[1]


def test_two_processes_have_the_beta_of_one(tmp_path):
    found, beta = fit_auto_beta(tmp_path / "one")
    assert together(2, share_auto_beta, tmp_path) == [0, 0]
    first, second = (load_file(tmp_path / f"two-{rank}.safetensors") for rank in (0, 1))
    assert torch.equal(first["beta"], second["beta"])
    assert first["beta"].item() == pytest.approx(beta)
    torch.testing.assert_close(first["weights"], found)
