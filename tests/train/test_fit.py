import math
import os
import re
import signal
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tiny_runs import (
    MOMENTUM,
    PointPreference,
    adamw,
    diffusion_files,
    fit_diffusion,
    fit_points,
    in_process,
    run_for_resume,
    run_until_signal,
    scorer,
    stored,
    together,
    weights,
)

from diffpo.core.objective import Step
from diffpo.core.references import Ema
from diffpo.core.refusal import Refusal
from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.processes.stopping import Stopped
from diffpo.storage.lock import LOCK
from diffpo.train.fit import Preview


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return diffusion_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def logged(monkeypatch):
    """What a run logs: metrics by step."""
    reads = {}
    monkeypatch.setattr(Accelerator, "log", lambda self, values, step: reads.update({step: dict(values)}))
    return reads


# Learning


def test_points_are_ranked_right_in_the_end(tmp_path, logged):
    fit_points(tmp_path, steps=60, log_every=20, optimizer=adamw(0.05))
    assert logged[60]["rewards/accuracies"] > 0.9
    assert logged[60]["loss"] < 0.4


def test_the_tiny_stable_diffusion_learns_to_prefer_the_chosen_pictures(files, tmp_path, logged):
    fit_diffusion(files, tmp_path, steps=20, log_every=5, batch_size=6, per_device_batch_size=6, optimizer=adamw(3e-3))
    assert logged[20]["rewards/accuracies"] > 0.9


def test_a_run_starts_at_log_two_and_half_accuracy(tmp_path, logged):
    fit_points(tmp_path, steps=1)
    assert logged[1]["loss"] == pytest.approx(math.log(2))
    assert logged[1]["rewards/accuracies"] == 0.5
    assert logged[1]["rewards/margins"] == 0.0


def test_mixed_precision_starts_at_log_two(files, tmp_path, logged):
    """Policy and reference share one autocast; a policy that alone was rounded started at 1.6."""
    AcceleratorState._reset_state(reset_partial_state=True)
    fit_diffusion(files, tmp_path, steps=1, mixed_precision="bf16", objective=DenoisingPreference())
    AcceleratorState._reset_state(reset_partial_state=True)
    assert logged[1]["loss"] == pytest.approx(math.log(2))


def test_weights_end_as_their_moving_average(tmp_path):
    """The decay is what was asked for, or (1 + n) / (10 + n) while that is smaller."""
    policy = fit_points(tmp_path, ema=0.2, save_every=1, keep=9)
    average = stored(tmp_path, 1)
    for step, decay in ((2, 2 / 11), (3, 0.2), (4, 0.2)):
        average.lerp_(stored(tmp_path, step), 1 - decay)
    torch.testing.assert_close(weights(policy), average)


def test_accumulated_micro_batches_are_one_batch(tmp_path):
    halves, start = fit_points(tmp_path / "2x2", steps=1, optimizer=MOMENTUM), scorer()
    whole = fit_points(tmp_path / "4", steps=1, optimizer=MOMENTUM, per_device_batch_size=4)
    assert (weights(halves) - weights(whole)).norm() < 1e-6 * (weights(whole) - weights(start)).norm()


def test_accumulated_pictures_are_one_batch(files, tmp_path):
    halves, start = fit_diffusion(files, tmp_path / "2x2", steps=1, optimizer=MOMENTUM)
    whole, _ = fit_diffusion(files, tmp_path / "4", steps=1, optimizer=MOMENTUM, per_device_batch_size=4)
    halves, whole, start = weights(halves.unet), weights(whole.unet), weights(start.model)
    assert (halves - whole).norm() < 1e-5 * (whole - start).norm()  # fp32; gradients of the two sides nearly cancel


def test_gradients_are_clipped_once_for_the_whole_batch(tmp_path, logged):
    before, policy = weights(scorer()), scorer()
    fit_points(tmp_path, policy, steps=1, max_grad_norm=0.01, optimizer=partial(torch.optim.SGD, lr=1.0))
    assert logged[1]["grad_norm"] > 0.01
    assert (weights(policy) - before).norm() == pytest.approx(0.01, rel=1e-4)


def test_lora_leaves_the_base_as_it_was_bitwise(files, tmp_path):
    before = state_of(fit_diffusion(files, tmp_path / "none", steps=0)[0].unet)
    tuned, _ = fit_diffusion(files, tmp_path / "lora", base={"adapter": LoRA(rank=2)})
    after = state_of(tuned.unet)
    assert before.keys() <= after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert any("lora_B" in name and tensor.any() for name, tensor in after.items())


def state_of(unet) -> dict[str, torch.Tensor]:
    return {name.replace(".base_layer", ""): tensor for name, tensor in unet.state_dict().items()}


def test_gradient_checkpointing_changes_no_bit(files, tmp_path):
    plain, _ = fit_diffusion(files, tmp_path / "plain", steps=2)
    frugal, _ = fit_diffusion(files, tmp_path / "frugal", steps=2, base={"gradient_checkpointing": True})
    assert torch.equal(weights(plain.unet), weights(frugal.unet))


# What a run says


def test_metrics_have_their_fixed_names(files, tmp_path, logged):
    fit_diffusion(files, tmp_path, steps=2, log_every=2)
    assert logged.keys() == {2}
    rewards = {f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")}
    errors = {f"mse/{model}_{side}" for model in ("policy", "reference") for side in ("chosen", "rejected")}
    curves = {*rewards, *errors, "mse/chosen_minus_reference"}
    plain = {name for name in logged[2] if "/t" not in name}
    assert plain == {"loss", "lr", "grad_norm", "pairs_per_second", *curves}
    by_time = logged[2].keys() - plain
    assert by_time
    assert {re.sub("/t(0-250|250-500|500-750|750-1000)$", "", name) for name in by_time} == curves


def test_the_learning_rate_follows_its_schedule(tmp_path, logged):
    fit_points(tmp_path, steps=4, schedule="linear", warmup=2, optimizer=partial(torch.optim.SGD, lr=0.1))
    assert [logged[step]["lr"] for step in (1, 2, 3, 4)] == pytest.approx([0.05, 0.1, 0.05, 0.0])


def test_what_will_happen_is_printed(tmp_path, capsys):
    fit_points(tmp_path, steps=3, optimizer=partial(torch.optim.SGD, lr=0.1))
    printed = capsys.readouterr().out
    assert "3 steps of 4 pairs (1 processes x 2 x 2 accumulated), 1.00 epochs of 12 pairs" in printed
    assert "learning rate 0.1 (constant_with_warmup, 0 warm-up steps), never scaled by the batch" in printed
    assert "21 trainable parameters, computed in float32 on cpu" in printed


class Seen(Preview):
    def __init__(self, policy, every: int = 2):
        self.policy, self.every, self.drawn = policy, every, {}

    def __call__(self, step, accelerator):
        self.drawn[step] = weights(self.policy)


def test_previews_are_drawn_at_zero_then_every_so_often_and_at_the_end(tmp_path):
    policy, before = scorer(), weights(scorer())
    preview = Seen(policy)
    fit_points(tmp_path, policy, steps=5, preview=preview)
    assert list(preview.drawn) == [0, 2, 4, 5]
    assert torch.equal(preview.drawn[0], before)


def test_previews_show_the_average_and_do_not_disturb_the_run(tmp_path):
    policy = scorer()
    preview = Seen(policy)
    fit_points(tmp_path / "a", policy, ema=0.8, preview=preview)
    assert torch.equal(preview.drawn[4], weights(policy))
    assert torch.equal(weights(fit_points(tmp_path / "b", ema=0.8)), weights(policy))


# Accidents


@dataclass(frozen=True)
class Diverging(PointPreference):
    """The loss is not finite in the epoch after the first."""

    def __call__(self, policy, reference, batch, draws) -> Step:
        step = super().__call__(policy, reference, batch, draws)
        return step if max(batch.epoch) == 0 else Step(step.loss * math.nan, step.metrics)


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path, log_every):
    whole = fit_points(tmp_path / "whole", steps=3)
    folder = tmp_path / "diverging"
    with pytest.raises(Refusal, match="loss and grad_norm stopped being finite within the") as raised:
        fit_points(folder, objective=Diverging(), steps=9, save_every=3, log_every=log_every)
    assert f"{folder}/checkpoint-000003 is intact. Lower the learning rate" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-000003"]
    assert torch.equal(stored(folder, 3), weights(whole))


def test_weights_that_are_not_finite_before_the_first_step_are_not_the_learning_rates_fault(tmp_path):
    policy = scorer()
    policy[0].bias.data[1] = math.nan
    with pytest.raises(Refusal, match="Before the first step the base, or its adapter, .* 0.bias is not finite; take"):
        fit_points(tmp_path, policy)


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"betas": (2.0, 0.9)}, {"weight_decay": -1.0}])
def test_an_optimizer_that_refuses_its_settings_is_one_line(tmp_path, wrong):
    with pytest.raises(Refusal, match="The optimizer does not take its settings .*Invalid .*; change them"):
        fit_points(tmp_path, optimizer=partial(torch.optim.AdamW, **wrong))


# Exact resume


@pytest.fixture(scope="module")
def uninterrupted(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert in_process(run_for_resume, files, folder, None, None, 2) == 0
    return load_file(folder / "final.safetensors")


@pytest.mark.parametrize(
    ("kill", "save_every", "left"),
    [("save", 2, ["checkpoint-000002", "partial"]), (7, 2, ["checkpoint-000002"]), (6, 3, ["checkpoint-000003"])],
    ids=["inside a save", "inside an accumulation", "at the end of an epoch"],
)
def test_a_killed_run_that_resumes_ends_with_the_same_bits(files, tmp_path, uninterrupted, kill, save_every, left):
    """With two workers, an average, a moving reference and a schedule."""
    assert in_process(run_for_resume, files, tmp_path, kill, None, save_every) == -9
    assert {path.name for path in tmp_path.iterdir()} == {*left, "config.yaml", "metrics.jsonl", LOCK}
    assert in_process(run_for_resume, files, tmp_path, None, "latest", save_every) == 0
    final = load_file(tmp_path / "final.safetensors")
    assert all(torch.equal(final[name], tensor) for name, tensor in uninterrupted.items())


def test_a_moving_reference_survives(tmp_path):
    def run(folder, steps: int, resume=None) -> torch.Tensor:
        policy = scorer()
        reference = Ema(policy, decay=0.5)
        fit_points(folder, policy, resume, reference=reference, steps=steps, save_every=2)
        return weights(reference.model)

    straight = run(tmp_path / "straight", 4)
    half = run(tmp_path / "halves", 2)
    assert torch.equal(run(tmp_path / "halves", 4, "latest"), straight)
    assert not torch.equal(half, straight)


def test_a_resumed_run_logs_what_an_uninterrupted_one_does(tmp_path, logged):
    def metrics() -> dict[str, float]:
        return {name: value for name, value in logged.pop(4).items() if name != "pairs_per_second"}

    fit_points(tmp_path / "straight", save_every=2, log_every=4)
    straight = metrics()
    fit_points(tmp_path / "halves", steps=2, save_every=2, log_every=4)
    fit_points(tmp_path / "halves", resume="latest", save_every=2, log_every=4)
    assert metrics() == straight


# Signals


def until(micro_batch: int, number: int = signal.SIGTERM):
    """A `prepare` that is interrupted once, within one of the micro-batches from 1 on."""
    calls = []

    def prepare(model, batch, draws):
        calls.append(None)
        if len(calls) == micro_batch:
            os.kill(os.getpid(), number)
        return model, batch

    return prepare


FULL = {"ema": 0.9, "schedule": "cosine", "warmup": 1, "steps": 4, "save_every": 3, "log_every": 2}


@pytest.mark.parametrize("micro_batch", range(1, 9))
def test_a_run_that_a_signal_stops_loses_the_step_in_hand_and_ends_with_the_same_bits(tmp_path, micro_batch):
    """Of two micro-batches per step; the last of the last step too."""
    straight = fit_points(tmp_path / "straight", **FULL)
    folder, whole = tmp_path / "stopped", micro_batch // 2
    with pytest.raises(Stopped, match=f"holds all {whole} steps" if whole else "No step was whole yet") as stopped:
        fit_points(folder, prepare=until(micro_batch), **FULL)
    assert stopped.value.number == signal.SIGTERM
    newest = max((path.name for path in folder.glob("checkpoint-*")), default=None)
    assert newest == (f"checkpoint-{whole:06d}" if whole else None)
    resumed = fit_points(folder, resume="latest", **FULL)
    assert torch.equal(weights(resumed), weights(straight))
    assert torch.equal(stored(folder, 4), stored(tmp_path / "straight", 4))


def test_a_step_that_is_dropped_is_not_in_the_metrics(tmp_path, logged):
    fit_points(tmp_path / "straight", steps=1, log_every=9)
    straight = logged.pop(1)
    with pytest.raises(Stopped):
        fit_points(tmp_path / "stopped", prepare=until(3), save_every=9, log_every=9)
    assert {**logged.pop(1), "pairs_per_second": 0} == {**straight, "pairs_per_second": 0}
    assert not logged


def test_a_run_without_checkpoints_says_that_nothing_is_kept(tmp_path):
    with pytest.raises(Stopped, match="save_every is null, so nothing is kept of 2 steps"):
        fit_points(tmp_path, prepare=until(5))
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_loss_that_is_not_finite_is_not_saved_by_a_signal_either(tmp_path):
    with pytest.raises(Refusal, match="stopped being finite"):
        fit_points(tmp_path, objective=Diverging(), steps=9, save_every=9, log_every=9, prepare=until(8))
    assert not list(tmp_path.glob("checkpoint-*"))


def test_several_processes_agree_on_the_step_at_which_they_stop(tmp_path):
    """Only the first gets the signal; one process goes on, with the same bits."""
    assert together(2, run_until_signal, tmp_path, 3) == [0, 0]
    said = [(tmp_path / f"said-{rank}").read_text() for rank in (0, 1)]
    assert said == [f"15: {tmp_path}/run/checkpoint-000003 holds all 3 steps."] * 2
    straight = fit_points(tmp_path / "straight", per_device_batch_size=2, **FULL)
    resumed = fit_points(tmp_path / "run", resume="latest", per_device_batch_size=2, **FULL)
    assert torch.equal(weights(resumed), weights(straight))
