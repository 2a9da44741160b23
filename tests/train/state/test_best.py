import json
import os
import signal
from dataclasses import dataclass, replace

import pytest
import torch
from tiny_runs import Points, adamw, fit_points, in_process, scorer, stored, together, weights

from diffpo.core.refusal import Refusal
from diffpo.train.state.best import Best, KeepBest
from diffpo.train.validation import Validation

LOWEST, HIGHEST = KeepBest("loss", "lower"), KeepBest("rewards/accuracies", "higher")
SETTINGS = {"steps": 6, "ema": 0.5, "save_every": 2, "schedule": "cosine", "warmup": 1}


@dataclass(frozen=True, eq=False)
class Told(Validation):
    """A validation that says of one metric, at each step from `first` on, what it was told."""

    values: tuple[float, ...] = ()
    first: int = 1

    def __call__(self, *learner) -> dict[str, float]:
        told = object.__getattribute__(self, "__dict__")
        value = self.values[told.setdefault("heard", self.first - 1)]
        told["heard"] += 1
        return {"validation/loss": value}


def told(*values: float, first: int = 1, **keep) -> Told:
    return Told(Points(), 1, 2, replace(LOWEST, **keep), values=values, first=first)


def best_of(folder) -> dict:
    return json.loads((folder / "best.json").read_text())


def exported_after(folder, step: int) -> torch.Tensor:
    """What a run of that many steps leaves, all else being equal."""
    return weights(fit_points(folder / f"until-{step}", ema=0.5, steps=step, schedule="constant"))


@pytest.mark.parametrize(
    ("values", "better", "step"),
    [
        ((3.0, 1.0, 2.0, 1.0), "lower", 2),
        ((3.0, 1.0, 2.0, 4.0), "higher", 4),
        ((3.0, 1.0, 3.0, 2.0), "higher", 1),
        ((float("nan"), float("inf"), 5.0, 7.0), "lower", 3),
    ],
)
def test_the_weights_of_the_best_judgement_are_the_result(tmp_path, capsys, values, better, step):
    validation = told(*values, better=better)
    kept = weights(fit_points(tmp_path / "run", ema=0.5, steps=4, schedule="constant", validation=validation))
    assert torch.equal(kept, exported_after(tmp_path, step))
    assert best_of(tmp_path / "run") == {
        "step": step,
        "metric": "validation/loss",
        "better": better,
        "value": values[step - 1],
        "judged": 4,
        "last_step": 4,
    }
    assert f"The result is the weights of step {step}, where validation/loss was" in capsys.readouterr().out


def test_the_last_checkpoint_stays_that_of_the_last_step(tmp_path):
    settings = {"steps": 4, "save_every": 2, "validation": told(1.0, 2.0, 3.0, 4.0)}
    fit_points(tmp_path / "best", **settings)
    fit_points(tmp_path / "plain", steps=4, save_every=2)
    assert torch.equal(stored(tmp_path / "best", 4), stored(tmp_path / "plain", 4))


def test_training_ends_when_patience_does(tmp_path):
    validation = told(3.0, 1.0, 2.0, 1.0, 0.0, patience=2)
    kept = weights(fit_points(tmp_path / "run", ema=0.5, steps=9, schedule="constant", validation=validation))
    assert torch.equal(kept, exported_after(tmp_path, 2))
    assert (best_of(tmp_path / "run")["judged"], best_of(tmp_path / "run")["last_step"]) == (4, 4)


def test_a_run_whose_patience_has_ended_saves_its_last_step_and_trains_none_when_it_is_resumed(tmp_path):
    first = fit_points(tmp_path, steps=9, save_every=9, validation=told(1.0, 2.0, 3.0, patience=2))
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-000003"]
    again = fit_points(tmp_path, scorer(3), "latest", steps=9, save_every=9, validation=told(patience=2))
    assert torch.equal(weights(again), weights(first))
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-000003"]


def test_no_finite_judgement_leaves_the_last_weights_and_says_so(tmp_path, capsys):
    kept = fit_points(tmp_path / "run", steps=2, validation=told(float("nan"), float("nan")))
    assert torch.equal(weights(kept), weights(fit_points(tmp_path / "plain", steps=2)))
    assert "finite in none of 2 judgements: the last weights stay" in capsys.readouterr().out
    assert not (tmp_path / "run" / "best.json").exists()


def lines(folder) -> list[dict]:
    said = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "pairs_per_second"} for line in said]


def test_off_is_what_it_was_and_on_changes_neither_training_nor_what_is_logged(tmp_path):
    """Training with it on is training without it, checkpoints and all, but for the result."""
    plain = fit_points(tmp_path / "plain", **SETTINGS, validation=Validation(Points(), 2, 4))
    fit_points(tmp_path / "kept", **SETTINGS, validation=Validation(Points(), 2, 4, LOWEST))
    assert lines(tmp_path / "kept") == lines(tmp_path / "plain")
    assert torch.equal(stored(tmp_path / "kept", 6), stored(tmp_path / "plain", 6))
    assert not (tmp_path / "plain" / "checkpoint-000006" / "best.json").exists()
    assert not (tmp_path / "plain" / "best.json").exists()
    assert torch.equal(weights(plain), weights(fit_points(tmp_path / "alone", **SETTINGS)))


def run_told(folder, values: tuple[float, ...], first: int, kill: int, resume: str | None) -> None:
    """A run that dies within the step after `kill`."""
    calls = []

    def prepare(model, batch, draws):
        calls.append(None)
        if kill and len(calls) == 2 * kill + 2:  # one judges which metrics there are, and a step has two
            os.kill(os.getpid(), signal.SIGKILL)
        return model, batch

    validation = told(*values, first=first, patience=3)
    policy = fit_points(folder, resume=resume, prepare=prepare, **SETTINGS | {"steps": 9}, validation=validation)
    torch.save(weights(policy), folder / "result")


@pytest.mark.parametrize("kill", [3, 4, 5])
def test_a_killed_run_that_resumes_knows_its_best_and_its_patience(tmp_path, kill):
    """Best at step 2, so that patience ends at step 5 in both; of a kill, the last two steps are trained again."""
    values, saved = (3.0, 1.0, 2.0, 1.5, 4.0, 0.0, 0.0, 0.0, 0.0), kill - kill % 2
    assert in_process(run_told, tmp_path / "straight", values, 1, 0, None) == 0
    folder = tmp_path / "killed"
    killed = in_process(run_told, folder, values, 1, kill, None)
    if kill < 5:
        assert killed == -signal.SIGKILL
        assert not (folder / "best.json").exists()
        assert in_process(run_told, folder, values, saved + 1, 0, "latest") == 0
    assert torch.equal(torch.load(folder / "result"), torch.load(tmp_path / "straight" / "result"))
    assert best_of(folder) == best_of(tmp_path / "straight")
    assert best_of(folder)["step"] == 2
    assert best_of(folder)["last_step"] == 5


@pytest.mark.parametrize(
    ("metric", "close"),
    [
        ("los", "loss"),
        ("validation/loss", "loss"),
        ("reward/accuracy", "rewards/accuracies"),
        ("none at all like it, whatever", "and others|loss"),
    ],
)
def test_an_unknown_metric_is_refused_before_the_first_step_and_close_ones_are_named(tmp_path, metric, close):
    steps = []
    optimizer = lambda parameters: steps.append(None) or adamw()(parameters)  # noqa: E731
    with pytest.raises(Refusal, match=rf"keep_best.metric {metric} is nothing that this validation tells.*({close})"):
        fit_points(tmp_path, validation=Validation(Points(), 1, 2, KeepBest(metric, "lower")), optimizer=optimizer)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("patience", [0, -1])
def test_no_patience_at_all_is_refused(patience):
    with pytest.raises(Refusal, match=r"validation.keep_best.patience must be at least 1"):
        KeepBest("loss", "lower", patience)


def test_a_state_is_taken_up_whole():
    best, other = (Best(LOWEST, list(scorer(seed).parameters())) for seed in (0, 1))
    best.hear(3, {"validation/loss": 0.5})
    best.hear(4, {"validation/loss": 0.75})
    other.load_state_dict(best.state_dict())
    assert (other.step, other.value, other.judged, other.since) == (3, 0.5, 2, 1)
    assert all(torch.equal(one, two) for one, two in zip(best.weights, other.weights, strict=True))


def run_in_two(root) -> None:
    """Each process is told other numbers; the first one's count."""
    rank = int(os.environ["RANK"])
    values = ((3.0, 1.0, 2.0, 2.0, 0.0, 0.0), (1.0, 3.0, 0.0, -1.0, -2.0, -3.0))[rank]
    validation = told(*values, patience=2)
    policy = fit_points(root / "run", steps=6, per_device_batch_size=2, validation=validation)
    torch.save(weights(policy), root / f"result-{rank}")


def test_two_processes_decide_alike(tmp_path):
    assert together(2, run_in_two, tmp_path) == [0, 0]
    one, two = (torch.load(tmp_path / f"result-{rank}") for rank in (0, 1))
    assert torch.equal(one, two)
    assert (best_of(tmp_path / "run")["step"], best_of(tmp_path / "run")["last_step"]) == (2, 4)
