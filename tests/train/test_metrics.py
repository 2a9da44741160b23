import math

import pytest
import torch
from accelerate import Accelerator

from diffpo.core.refusal import Refusal
from diffpo.train import metrics as tracking
from diffpo.train.metrics import WINDOW, Meter, Watch, require_trackers


@pytest.fixture
def meter():
    return Meter(Accelerator())


def test_a_metric_is_the_mean_over_all_pairs_not_over_micro_batches(meter):
    meter.add({"a": torch.tensor([1.0, 2.0, 3.0])})
    meter.add({"a": torch.tensor([10.0])})
    assert meter.read() == {"a": 4.0}


def test_nan_says_that_a_metric_is_not_about_that_pair(meter):
    meter.add({"early": torch.tensor([1.0, math.nan]), "late": torch.tensor([math.nan, 5.0])})
    meter.add({"early": torch.tensor([3.0, math.nan]), "late": torch.tensor([math.nan, math.nan])})
    assert meter.read() == {"early": 2.0, "late": 5.0}


def test_a_metric_about_no_pair_is_left_out(meter):
    meter.add({"early": torch.tensor([1.0]), "late": torch.tensor([math.nan])})
    assert meter.read() == {"early": 1.0}


@pytest.mark.parametrize("accident", [math.nan, math.inf])
def test_a_number_that_is_not_finite_stays_visible(meter, accident):
    meter.add_number("loss", torch.tensor(1.0))
    meter.add_number("loss", torch.tensor(accident))
    assert not math.isfinite(meter.read()["loss"])


def test_reading_resets(meter):
    meter.add({"a": torch.tensor([1.0])})
    meter.add_number("loss", torch.tensor(4.0))
    assert meter.read() == {"a": 1.0, "loss": 4.0}
    assert meter.read() == {}
    meter.add_number("loss", torch.tensor(2.0))
    assert meter.read() == {"loss": 2.0}


def test_metrics_keep_no_graph(meter):
    meter.add_number("loss", torch.ones(3, requires_grad=True).sum())
    meter.add({"a": torch.ones(3, requires_grad=True) * 2})
    assert not any(value.requires_grad for value in meter.sums.values())


def reads(excess=(), accuracy=()) -> list[dict[str, float]]:
    errors = [{"mse/chosen_minus_reference": 0.5 * e, "mse/reference_chosen": 0.5} for e in excess]
    return errors or [{"rewards/accuracies": a} for a in accuracy]


def told(metrics: list[dict[str, float]]) -> list[str]:
    watch = Watch()
    return [warning for read in metrics for warning in watch(read)]


def test_a_rising_winner_error_is_told_once_with_a_remedy():
    (warning,) = told(reads(excess=[0.01 * i for i in range(3 * WINDOW)]))
    assert "11.0% above the reference's and rising (it was 8.0%)" in warning
    assert "--objective.guard.mu 0.9" in warning


def test_saturated_accuracy_is_told_once_with_a_remedy():
    (warning,) = told(reads(accuracy=[0.6] * WINDOW + [0.99] * 3 * WINDOW))
    assert "Implicit accuracy is 99.0%" in warning
    assert "Stop here, train on more pairs, or lower the learning rate" in warning


@pytest.mark.parametrize(
    "metrics",
    [
        reads(excess=[-0.01 * i for i in range(3 * WINDOW)]),
        reads(excess=[0.04 * (i % 3) for i in range(3 * WINDOW)]),
        reads(accuracy=[0.5 + 0.4 * i / WINDOW for i in range(WINDOW)] + [0.9] * WINDOW),
    ],
    ids=["winners improve", "noise below ten percent", "accuracy of ninety percent"],
)
def test_healthy_curves_are_left_alone(metrics):
    assert told(metrics) == []


def test_nothing_is_told_before_the_window_is_full():
    assert told(reads(excess=[0.1 * i for i in range(WINDOW - 1)])) == []


def test_nothing_is_told_about_metrics_that_are_missing():
    assert told([{"loss": 1.0}] * 2 * WINDOW) == []


@pytest.mark.parametrize("metric", ["excess", "accuracy"])
def test_nothing_is_told_where_some_reads_lack_a_metric(metric):
    """Single pictures: a read may see no winner at all."""
    assert told([{}, *reads(**{metric: [0.99 + 0.001 * i for i in range(WINDOW - 1)]})]) == []


def judged(accuracy: float, margin: float, exchanged: float) -> dict[str, float]:
    return {
        "validation/rewards/accuracies": accuracy,
        "validation/rewards/margins": margin,
        "validation/captions_exchanged/margins": exchanged,
    }


def test_captions_that_explain_most_of_the_margin_are_told_once():
    """Pictures 1, captions 3: margin 4, exchanged -2."""
    watch = Watch()
    [warning] = watch.held_out(judged(0.7, 4.0, -2.0))
    assert warning.startswith("Captions alone explain 75% of the margin on held-out pairs")
    assert watch.held_out(judged(0.7, 4.0, -2.0)) == []


@pytest.mark.parametrize("found", [judged(0.7, 4.0, 1.0), judged(0.5, 0.1, -0.2), {"validation/loss": 0.6}])
def test_captions_that_explain_less_or_nothing_clear_are_not(found):
    assert Watch().held_out(found) == []


@pytest.mark.parametrize("name", ["tensorbord", "all", "TensorBoard", "wandb "])
def test_a_tracker_that_nobody_knows_is_no_package_to_install(name):
    with pytest.raises(Refusal, match=f"fit.report_to names {name}; the known trackers are aim, ") as caught:
        require_trackers([name])
    assert "pip install" not in str(caught.value)


def test_a_known_tracker_that_is_not_installed_is_a_package_to_install(monkeypatch):
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["tensorboard"])
    require_trackers(["tensorboard"])
    with pytest.raises(Refusal, match="names wandb, trackio, not installed; pip install wandb trackio"):
        require_trackers(["tensorboard", "wandb", "trackio"])
