import signal
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_FSIZE, getrlimit, setrlimit
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from diffpo.core.refusal import Refusal
from diffpo.storage.lock import Lock
from diffpo.train import run as module
from diffpo.train.run import FitConfig, add_line, open_run, require_disk


@pytest.fixture
def fresh_accelerator():
    """Accelerate keeps one precision per process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    "held", ["checkpoint-000002/config.yaml", "unet/config.json", "pytorch_lora_weights.safetensors"]
)
def test_a_folder_that_holds_a_run_is_refused_unless_resumed(tmp_path, held):
    open_run(FitConfig(steps=1), tmp_path)
    (tmp_path / held).parent.mkdir(exist_ok=True)
    (tmp_path / held).touch()
    with pytest.raises(Refusal, match=f"already holds {held.split('/')[0]}; .* --resume latest.*--output_dir"):
        open_run(FitConfig(steps=1), tmp_path)
    assert open_run(FitConfig(steps=1), tmp_path, resume="latest").resume == "latest"


@pytest.mark.parametrize("resume", [None, "latest"])
def test_a_folder_of_something_else_is_refused_and_left_as_it_is(tmp_path, resume):
    (tmp_path / "unet").mkdir()
    for name in ("README.md", "config.yaml"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(Refusal, match=r"holds (README.md, config.yaml, unet, which no training has left|unet;)"):
        open_run(FitConfig(steps=1), tmp_path, resume=resume)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.yaml", "unet"]
    assert {(tmp_path / name).read_text() for name in ("README.md", "config.yaml")} == {"mine"}


@pytest.mark.parametrize("resume", [None, "latest"])
def test_what_a_former_start_has_left_is_no_hindrance(tmp_path, resume):
    for name in ("log.txt", "slurm-12.out", "overrides.json", ".gitkeep"):
        (tmp_path / name).touch()
    open_run(FitConfig(steps=1), tmp_path, settings="seed: 1").begin()
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "partial").mkdir()
    open_run(FitConfig(steps=1), tmp_path, resume=resume, settings="seed: 2").begin()
    assert (tmp_path / "config.yaml").read_text() == "seed: 2"


@pytest.mark.parametrize("resume", [None, "latest"])
def test_a_folder_in_use_is_said_to_be_so_before_what_it_holds(tmp_path, fresh_accelerator, resume):
    """What it holds changes while the other program is at work."""
    other = Lock(tmp_path)
    other.sign("training")
    (tmp_path / "checkpoint-000002").mkdir()
    with pytest.raises(Refusal, match=r"is in use by process \d+ on .*; wait for it"):
        open_run(FitConfig(steps=1), tmp_path, resume=resume)
    other.release()
    with pytest.raises(Refusal, match="already holds checkpoint-000002"):
        open_run(FitConfig(steps=1), tmp_path)


def test_nothing_is_made_for_a_run_that_is_refused(tmp_path, fresh_accelerator):
    with pytest.raises(Refusal, match="is not a whole checkpoint"):
        open_run(FitConfig(steps=1), tmp_path / "run", resume=str(tmp_path / "checkpoint-000001"))
    assert not (tmp_path / "run").exists()


def test_accumulation_follows_from_the_two_batch_sizes(tmp_path):
    run = open_run(FitConfig(steps=1, batch_size=12, per_device_batch_size=3), tmp_path)
    assert run.accelerator.gradient_accumulation_steps == 4


def test_a_batch_that_does_not_divide_is_refused_with_the_values(tmp_path):
    with pytest.raises(Refusal, match="fit.batch_size 10 is not a multiple of 1 processes x .*_batch_size 4"):
        open_run(FitConfig(steps=1, batch_size=10, per_device_batch_size=4), tmp_path)
    assert not (tmp_path / "config.yaml").exists()


def test_trackers_are_looked_at_before_the_run(tmp_path):
    with pytest.raises(Refusal, match="fit.report_to names tensorbord; the known trackers are"):
        open_run(FitConfig(steps=1, report_to=["tensorbord"]), tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Refusal, match=f"output_dir {tmp_path / 'file'} is a file; choose another output_dir"):
        open_run(FitConfig(steps=1), tmp_path / "file")
    with pytest.raises(Refusal, match="below.* could not be written .* Something of another kind is"):
        open_run(FitConfig(steps=1), tmp_path / "file" / "below")


def test_a_negative_seed_is_refused(tmp_path):
    with pytest.raises(Refusal, match="seed must be at least 0, got -1"):
        open_run(FitConfig(steps=1), tmp_path, seed=-1)


def test_what_would_train_nothing_or_backwards_is_refused():
    with pytest.raises(Refusal, match="fit.warmup must be at least 0, got -3"):
        FitConfig(steps=1, warmup=-3)
    for norm in (0.0, -1.0, float("nan")):
        with pytest.raises(Refusal, match=f"fit.max_grad_norm is positive, got {norm}; inf clips nothing"):
            FitConfig(steps=1, max_grad_norm=norm)


def test_no_tracker_is_no_warning(tmp_path, recwarn):
    open_run(FitConfig(steps=1), tmp_path)
    assert not [warning for warning in recwarn if "log_with" in str(warning.message)]


def test_the_config_is_written_to_the_folder(tmp_path):
    run = open_run(FitConfig(steps=1), tmp_path / "new" / "run", settings="fit: {steps: 3}")
    assert not (tmp_path / "new" / "run" / "config.yaml").exists()  # something may still be refused
    run.begin()
    assert yaml.safe_load((tmp_path / "new" / "run" / "config.yaml").read_text()) == {"fit": {"steps": 3}}


def test_settings_reach_the_tracker_flat(tmp_path):
    pytest.importorskip("tensorboard")
    run = open_run(
        FitConfig(steps=1, report_to=["tensorboard"]), tmp_path, settings="fit: {steps: 3}\nrows: [a, b]\nnone: null"
    )
    run.accelerator.end_training()
    (written,) = tmp_path.rglob("hparams.yml")
    assert yaml.safe_load(written.read_text()) == {"fit.steps": 3, "rows": "['a', 'b']", "none": "None"}


@pytest.mark.parametrize(("precision", "storage"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_frozen_weights_are_stored_in_the_type_of_mixed_precision(tmp_path, fresh_accelerator, precision, storage):
    assert open_run(FitConfig(steps=1, mixed_precision=precision), tmp_path).storage == storage


def test_checkpoints_that_cannot_fit_are_refused_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5 * 2**30))
    require_disk(tmp_path, needed=2**30, keep=4)
    with pytest.raises(Refusal, match=r"6 checkpoints of 1.00 GiB do not fit .*\(5.00 GiB free\).*lower fit.keep"):
        require_disk(tmp_path, needed=2**30, keep=5)


def test_a_result_that_cannot_fit_is_refused_before_the_run_with_or_without_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5 * 2**30))
    with pytest.raises(Refusal, match=r"5 checkpoints of 1.00 GiB do not fit .*6.00 GiB are needed"):
        require_disk(tmp_path, needed=2**30, keep=4, result=2**30)
    require_disk(tmp_path, needed=0, keep=4, result=5 * 2**30)
    with pytest.raises(Refusal, match=r"What is trained does not fit .*6.00 GiB are needed, the result included"):
        require_disk(tmp_path, needed=0, keep=4, result=6 * 2**30)


@pytest.mark.parametrize("name", ["batch_size", "per_device_batch_size", "log_every", "save_every", "keep"])
def test_a_count_of_nothing_is_refused(name):
    with pytest.raises(Refusal, match=f"fit.{name} must be at least 1, got 0"):
        FitConfig(steps=1, **{name: 0})


def test_an_average_that_never_moves_or_diverges_is_refused():
    with pytest.raises(Refusal, match=r"fit.ema is a decay in \[0, 1\), got 1.0"):
        FitConfig(steps=1, ema=1.0)


def test_steps_or_epochs_are_given_and_not_both():
    with pytest.raises(Refusal, match="fit needs steps or epochs, got None and None"):
        FitConfig()
    with pytest.raises(Refusal, match="got 3 and 1.5; set the other to null"):
        FitConfig(steps=3, epochs=1.5)


def test_epochs_become_whole_steps_and_need_a_length():
    config = FitConfig(epochs=1.5, batch_size=4)
    assert config.steps_on(10) == 4  # 15 pairs
    with pytest.raises(Refusal, match="set fit.steps instead of fit.epochs"):
        config.steps_on(None)


@pytest.mark.parametrize(("precision", "rounded"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_rounds_as_mixed_precision_says(tmp_path, fresh_accelerator, precision, rounded):
    run = open_run(FitConfig(steps=1, mixed_precision=precision), tmp_path)
    with run.autocast():
        assert (torch.ones(1, 1) @ torch.ones(1, 1)).dtype == rounded


def test_room_that_checkpoints_of_the_run_hold_is_not_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2 * 2**30))
    require_disk(tmp_path, needed=2**30, keep=2, result=2**30, held=2 * 2**30)
    with pytest.raises(Refusal, match="3.00 GiB are needed, the result included"):
        require_disk(tmp_path, needed=2**30, keep=2, result=2**30, held=2**30)
    with pytest.raises(Refusal, match="3.00 GiB are needed"):  # what is held beyond those that stay is not given back
        require_disk(tmp_path, needed=2**30, keep=2, result=2 * 2**30, held=9 * 2**30)


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_line_that_was_cut_is_taken_out_before_the_next(tmp_path, cut):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"a": 1}\n{"b": 2}'[: 9 + cut])
    add_line(file, '{"c": 3}')
    assert file.read_text() == '{"a": 1}\n{"c": 3}\n'


@pytest.mark.parametrize("before", ["", '{"a": 1}\n'])
def test_a_line_for_which_there_is_no_room_leaves_nothing(tmp_path, before):
    """No file can outgrow 20 bytes."""
    file = tmp_path / "metrics.jsonl"
    file.write_text(before)
    limit, handler = getrlimit(RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    setrlimit(RLIMIT_FSIZE, (20, RLIM_INFINITY))
    try:
        with pytest.raises(OSError, match="File too large"):
            add_line(file, '{"b": "much longer than there is room for"}')
    finally:
        setrlimit(RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert file.read_text() == before


def test_files_of_trackers_lie_in_the_folder_of_the_run(tmp_path, monkeypatch, fresh_accelerator):
    pytest.importorskip("tensorboard")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    run = open_run(FitConfig(steps=1, report_to=["tensorboard"]), tmp_path / "run", settings="seed: 0")
    run.log({"loss": 1.0}, 1)
    run.accelerator.end_training()
    assert list(elsewhere.iterdir()) == []
    assert list((tmp_path / "run" / "diffpo").glob("events.*"))


def test_wandb_is_told_to_write_there_and_not_where_the_run_was_started(tmp_path, monkeypatch, fresh_accelerator):
    told = {}
    monkeypatch.setattr(module, "require_trackers", lambda names: None)
    monkeypatch.setattr(
        "accelerate.Accelerator.init_trackers", lambda self, project, config, init_kwargs: told.update(init_kwargs)
    )
    open_run(FitConfig(steps=1, report_to=["wandb"]), tmp_path / "run", settings="seed: 0")
    assert told["wandb"] == {"dir": str(tmp_path / "run")}
    assert all(Path(path).is_relative_to(tmp_path / "run") for options in told.values() for path in options.values())
