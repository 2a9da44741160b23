import shutil
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tiny import unet
from tiny_runs import fit_points, in_process, run_on_a_full_disk, scorer, stored, weights
from torch import nn

from diffpo.adapters import LoRA
from diffpo.checkpoint import Checkpoints, flat, store_trainable
from diffpo.refusal import Refusal
from diffpo.run import METRICS


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != METRICS)


@pytest.fixture(scope="module")
def four_steps(tmp_path_factory):
    """A finished run with a checkpoint after each of its four steps; not to be written to."""
    folder = tmp_path_factory.mktemp("four")
    fit_points(folder, save_every=1, keep=9)
    return folder


@pytest.fixture
def run_folder(four_steps, tmp_path):
    return shutil.copytree(four_steps, tmp_path / "run")


def checkpoints(root, config: str = "seed: 0") -> Checkpoints:
    return Checkpoints(Accelerator(), root, 2, config)


def test_only_trainable_weights_are_stored(tmp_path):
    network, accelerator = unet(), Accelerator()
    LoRA(rank=2).attach(network)
    accelerator.prepare(network)
    store_trainable(accelerator, network)
    accelerator.save_state(str(tmp_path))
    assert not (tmp_path / "model.safetensors").exists()
    trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
    found = load_file(tmp_path / "trainable.safetensors")
    assert found.keys() == trainable.keys()
    assert all(torch.equal(found[name], p) for name, p in trainable.items())


def test_weights_that_this_run_does_not_train_are_refused(tmp_path):
    fit_points(tmp_path, save_every=4)
    with pytest.raises(Refusal, match=r"trains other weights than this run \(2 names differ, first 3.bias\)"):
        fit_points(tmp_path, nn.Sequential(*scorer(), nn.Linear(1, 1)), resume="latest", steps=5)


def test_the_newest_checkpoints_stay(tmp_path):
    fit_points(tmp_path, save_every=1, keep=2)
    assert names(tmp_path) == ["checkpoint-000003", "checkpoint-000004", "config.yaml"]


def test_the_last_step_is_always_saved(tmp_path):
    fit_points(tmp_path, steps=5, save_every=2, keep=9)
    assert names(tmp_path) == [f"checkpoint-{step:06d}" for step in (2, 4, 5)] + ["config.yaml"]


def test_resume_picks_the_newest_or_the_named_one(run_folder, tmp_path):
    resume = partial(fit_points, run_folder, save_every=None, steps=4)
    assert torch.equal(weights(resume(resume="latest")), stored(run_folder, 4))
    resumed = fit_points(tmp_path / "elsewhere", resume=str(run_folder / "checkpoint-000002"), steps=2)
    assert torch.equal(weights(resumed), stored(run_folder, 2))


def test_an_older_checkpoint_is_not_resumed_among_later_ones(run_folder):
    """Their numbers would be written again, and the newest that stay would be those of the abandoned run."""
    older = str(run_folder / "checkpoint-000002")
    with pytest.raises(Refusal, match=r"later checkpoints than .*2 \(checkpoint-000003, checkpoint-000004\); delete"):
        fit_points(run_folder, resume=older)
    for name in ("checkpoint-000003", "checkpoint-000004"):
        shutil.rmtree(run_folder / name)
    fit_points(run_folder, resume=older, save_every=1, keep=1)
    assert names(run_folder) == ["checkpoint-000004", "config.yaml"]


def test_half_written_checkpoints_do_not_count_among_those_that_stay(run_folder):
    (run_folder / "checkpoint-000004" / "config.yaml").unlink()
    checkpoints(run_folder).save(5)
    assert [folder.name for folder in checkpoints(run_folder).found()] == ["checkpoint-000003", "checkpoint-000005"]


def test_a_million_steps_come_after_fewer(tmp_path):
    for step in (1_000_000, 999_999):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "config.yaml").write_text("seed: 0")
    assert checkpoints(tmp_path).chosen("latest") == tmp_path / "checkpoint-1000000"


def test_half_written_checkpoints_are_skipped_with_a_warning(run_folder, caplog):
    (run_folder / "partial").mkdir()
    (run_folder / "checkpoint-000004" / "config.yaml").unlink()
    assert checkpoints(run_folder).found()[-1].name == "checkpoint-000003"
    assert [record.getMessage() for record in caplog.records] == [
        f"{run_folder / name} is half-written (a save was interrupted); it is skipped."
        for name in ("checkpoint-000004", "partial")
    ]


def test_a_half_written_checkpoint_is_written_again(run_folder):
    (run_folder / "checkpoint-000004" / "config.yaml").unlink()
    fit_points(run_folder, resume="latest", save_every=1, keep=9)
    assert checkpoints(run_folder).found()[-1].name == "checkpoint-000004"


def test_resuming_in_an_empty_folder_starts_at_zero(tmp_path):
    fresh, resumed = fit_points(tmp_path / "a"), fit_points(tmp_path / "b", resume="latest")
    assert torch.equal(weights(fresh), weights(resumed))


def test_a_path_that_is_no_checkpoint_is_refused(run_folder):
    with pytest.raises(Refusal, match="nowhere is not a whole checkpoint; name a folder checkpoint-N"):
        checkpoints(run_folder).resume(str(run_folder / "nowhere"))


def test_the_config_of_another_run_is_refused_by_the_names_of_its_keys(run_folder):
    changed = r"belongs to another run: loss.beta was None, now 3; seed was 0, now 1\. Restore these"
    with pytest.raises(Refusal, match=changed):
        checkpoints(run_folder, "seed: 1\nloss: {beta: 3}").resume("latest")


def test_a_refused_resume_leaves_the_config_alone(run_folder):
    with pytest.raises(Refusal, match="belongs to another run"):
        fit_points(run_folder, resume="latest", settings="seed: 1")
    assert (run_folder / "config.yaml").read_text() == "seed: 0"


def test_length_intervals_batches_and_places_may_change(run_folder):
    settings = """
        seed: 0
        output_dir: elsewhere
        resume: latest
        fit: {steps: 9, log_every: 7, save_every: 3, keep: 1, per_device_batch_size: 1}
        preview: {every: 5}
        data: {workers: 0}
    """
    fit_points(run_folder, resume="latest", settings=settings)


def test_a_longer_run_goes_on_where_a_shorter_one_ended(run_folder, tmp_path):
    straight = fit_points(tmp_path / "straight", steps=6)
    assert torch.equal(weights(fit_points(run_folder, resume="latest", steps=6)), weights(straight))


def test_a_run_shorter_than_its_checkpoint_is_refused(run_folder):
    with pytest.raises(
        Refusal, match="checkpoint-000004 lies beyond the 3 steps of fit; raise them, or resume earlier"
    ):
        fit_points(run_folder, resume="latest", steps=3)


@pytest.mark.parametrize(("room", "error"), [(100, "SafetensorError"), (2000, "RuntimeError")])
def test_a_full_disk_stops_the_run_and_costs_no_checkpoint(tmp_path, room, error):
    fit_points(tmp_path, steps=2, save_every=1)
    (tmp_path / METRICS).unlink()
    (tmp_path / METRICS).symlink_to("/dev/null")  # only what checkpoints write meets the limit
    before = stored(tmp_path, 2)
    assert in_process(run_on_a_full_disk, tmp_path, room) == 0
    said = (tmp_path / "said").read_text()
    assert said.startswith(f"Checkpoint 3 could not be written ({error}: ")
    assert f"{tmp_path}/checkpoint-000002 is intact. Free some space or lower fit.keep" in said
    assert "\n" not in said
    assert names(tmp_path) == ["checkpoint-000001", "checkpoint-000002", "config.yaml", "said"]
    assert torch.equal(stored(tmp_path, 2), before)
    assert weights(fit_points(tmp_path, resume="latest")).isfinite().all()


def test_metrics_that_cannot_be_written_stop_the_run(run_folder):
    (run_folder / METRICS).unlink()
    (run_folder / METRICS).symlink_to("/dev/full")
    with pytest.raises(Refusal, match=r"metrics of step 5 could not .*No space left.*checkpoint-000004 is intact"):
        fit_points(run_folder, resume="latest", steps=6)


@pytest.mark.parametrize("how", ["cut", "gone"])
@pytest.mark.parametrize("name", ["trainable.safetensors", "optimizer.bin", "custom_checkpoint_0.pkl"])
def test_a_damaged_checkpoint_names_the_one_before(tmp_path, name, how):
    fit_points(tmp_path, steps=2, save_every=1)
    damaged = tmp_path / "checkpoint-000002" / name
    whole = damaged.read_bytes()
    damaged.unlink()
    if how == "cut":
        damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Refusal, match=r"2 is damaged \(.*; delete it and resume checkpoint-000001,") as caught:
        fit_points(tmp_path, resume="latest")
    assert "\n" not in str(caught.value)
    shutil.rmtree(damaged.parent)
    fit_points(tmp_path, resume="latest")


def test_a_run_folder_is_no_checkpoint(run_folder, tmp_path):
    with pytest.raises(Refusal, match="is not a whole checkpoint; name a folder checkpoint-N"):
        fit_points(tmp_path, resume=str(run_folder))


def test_flat_joins_nested_names_and_keeps_lists_whole():
    assert flat({"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": None}) == {"a.b.c": 1, "a.d": [1, {"e": 2}], "f": None}
