import json
import shutil
from contextlib import suppress
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from damage import DAMAGES, flipped
from safetensors.torch import load_file
from tiny import unet
from tiny_runs import Points, fit_points, in_process, run_on_a_full_disk, scorer, stored, weights
from torch import nn

from diffpo.core.refusal import Refusal
from diffpo.diffusion.model.lora import LoRA
from diffpo.storage.lock import LOCK
from diffpo.train.run import METRICS
from diffpo.train.state import training_state
from diffpo.train.state.checkpoint import Checkpoints, flatten_tree
from diffpo.train.state.training_state import TrainingState


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in (METRICS, LOCK))


@pytest.fixture(scope="module")
def four_steps(tmp_path_factory):
    """A finished run with a checkpoint after each of its four steps; not to be written to."""
    folder = tmp_path_factory.mktemp("four")
    fit_points(folder, save_every=1, keep=9)
    return folder


@pytest.fixture
def run_folder(four_steps, tmp_path):
    return shutil.copytree(four_steps, tmp_path / "run")


def half(checkpoint) -> None:
    for name in ("config.yaml", "files.json"):
        (checkpoint / name).unlink()


def checkpoints(root, config: str = "seed: 0") -> Checkpoints:
    return Checkpoints(Accelerator(), root, 2, config)


def test_only_trainable_weights_are_stored(tmp_path):
    network = unet()
    LoRA(rank=2).attach(network)
    TrainingState(Accelerator(), network).save(tmp_path)
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
    half(run_folder / "checkpoint-000004")
    checkpoints(run_folder).save(5)
    assert [folder.name for folder in checkpoints(run_folder).found()] == ["checkpoint-000003", "checkpoint-000005"]


def test_a_million_steps_come_after_fewer(tmp_path):
    for step in (1_000_000, 999_999):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "config.yaml").write_text("seed: 0")
    assert checkpoints(tmp_path).chosen("latest") == tmp_path / "checkpoint-1000000"


def test_half_written_checkpoints_are_skipped_with_a_warning(run_folder, caplog):
    (run_folder / "partial").mkdir()
    half(run_folder / "checkpoint-000004")
    assert checkpoints(run_folder).found()[-1].name == "checkpoint-000003"
    assert [record.getMessage() for record in caplog.records] == [
        f"{run_folder / name} is half-written (a save was interrupted); it is skipped."
        for name in ("checkpoint-000004", "partial")
    ]


def test_a_half_written_checkpoint_is_written_again(run_folder):
    half(run_folder / "checkpoint-000004")
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


def test_what_a_kill_left_of_a_dropped_checkpoint_goes_when_the_finished_run_is_resumed(run_folder):
    (run_folder / "checkpoint-000001").rename(run_folder / "partial")
    fit_points(run_folder, resume="latest", save_every=1)
    assert names(run_folder) == ["checkpoint-000002", "checkpoint-000003", "checkpoint-000004", "config.yaml"]


def test_a_longer_run_goes_on_where_a_shorter_one_ended(run_folder, tmp_path):
    straight = fit_points(tmp_path / "straight", steps=6)
    assert torch.equal(weights(fit_points(run_folder, resume="latest", steps=6)), weights(straight))


def test_a_run_shorter_than_its_checkpoint_is_refused(run_folder):
    with pytest.raises(
        Refusal, match="checkpoint-000004 lies beyond the 3 steps of fit; raise them, or resume earlier"
    ):
        fit_points(run_folder, resume="latest", steps=3)


@pytest.mark.parametrize(("room", "error"), [(100, "SafetensorError"), (6000, "OSError")])
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


def test_a_full_disk_at_the_last_checkpoint_costs_no_finished_run(run_folder, tmp_path, caplog, monkeypatch):
    """Its result is still to come; once there is room, the last steps are done again."""

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(training_state, "save_file", full)
        finished = fit_points(run_folder, resume="latest", steps=6, save_every=9)
    assert "Checkpoint 6 could not be written (OSError: [Errno 28] No space left on device; " in caplog.text
    assert f"{run_folder}/checkpoint-000004 is intact. Free some space" in caplog.text
    assert "All steps are done, and the run goes on to its result." in caplog.text
    assert not (run_folder / "checkpoint-000006").exists()
    assert torch.equal(weights(finished), weights(fit_points(tmp_path / "straight", steps=6)))
    assert torch.equal(weights(fit_points(run_folder, resume="latest", steps=6)), weights(finished))


def test_metrics_that_cannot_be_written_stop_the_run(run_folder):
    (run_folder / METRICS).unlink()
    (run_folder / METRICS).symlink_to("/dev/full")
    with pytest.raises(Refusal, match=r"metrics of step 5 could not .*No space left.*checkpoint-000004 is intact"):
        fit_points(run_folder, resume="latest", steps=6)


def test_metrics_of_the_last_step_cost_no_finished_run(tmp_path, run_folder, caplog):
    (run_folder / METRICS).unlink()
    (run_folder / METRICS).symlink_to("/dev/full")
    finished = fit_points(run_folder, resume="latest", steps=5, save_every=1)
    assert "metrics of step 5 could not be written ([Errno 28] No space left on device). They are lost" in caplog.text
    assert torch.equal(weights(finished), stored(run_folder, 5))


@pytest.mark.parametrize("how", ["cut", "gone"])
@pytest.mark.parametrize(
    "name", ["trainable.safetensors", "optimizer.json", "optimizer-0.safetensors", "schedule.json"]
)
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


FILES_OF_A_CHECKPOINT = [
    "config.yaml",
    "data.json",
    "files.json",
    "optimizer-0.safetensors",
    "optimizer.json",
    "random-00000-0.safetensors",
    "random-00000.json",
    "reference.json",
    "schedule.json",
    "trainable.safetensors",
]


def test_the_files_of_a_checkpoint_are_these(four_steps):
    found = sorted(file.name for file in (four_steps / "checkpoint-000004").iterdir())
    assert found == FILES_OF_A_CHECKPOINT


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES_OF_A_CHECKPOINT)
def test_no_damage_to_any_file_passes_in_silence(run_folder, name, damage, caplog):
    """A list of digests that is gone is told; else the run is refused, and goes on when the checkpoint is deleted."""
    folder = run_folder / "checkpoint-000004"
    if (name, damage) == ("files.json", "removed"):
        (folder / name).unlink()
        checkpoints(run_folder).chosen("latest")
        fit_points(run_folder, resume="latest")
        assert "has no files.json to compare it with" in caplog.text
        return
    DAMAGES[damage](folder / name, 0)
    config = (run_folder / "config.yaml").read_text()
    remedy = "delete it and resume checkpoint-000003, or start anew in another output_dir."
    with pytest.raises(Refusal, match=rf"^{folder} is damaged \(.*\); {remedy}$") as refused:
        fit_points(run_folder, resume="latest", steps=9)
    assert name in str(refused.value) or name == "files.json"
    assert (run_folder / "config.yaml").read_text() == config
    shutil.rmtree(folder)
    fit_points(run_folder, resume="latest")


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_in_the_list_of_digests_is_refused_or_changes_nothing(run_folder, seed):
    file = run_folder / "checkpoint-000004" / "files.json"
    before = json.loads(file.read_text())
    flipped(file, seed)
    with suppress(Refusal):
        fit_points(run_folder, resume="latest")
        assert json.loads(file.read_bytes()) == before


def test_a_damaged_checkpoint_names_one_that_is_intact(run_folder):
    for step in (3, 4):
        flipped(run_folder / f"checkpoint-00000{step}" / "trainable.safetensors", step)
    with pytest.raises(Refusal, match=r"000004 is damaged \(trainable.safetensors .*delete it and resume .*-000002,"):
        fit_points(run_folder, resume="latest")


def test_files_of_another_step_are_refused(run_folder):
    for name in ("trainable.safetensors", "optimizer-0.safetensors"):
        shutil.copy(run_folder / "checkpoint-000003" / name, run_folder / "checkpoint-000004" / name)
    with pytest.raises(Refusal, match=r"damaged \(optimizer-0.safetensors is not what was written\)"):
        fit_points(run_folder, resume="latest")


def test_a_checkpoint_under_the_name_of_another_step_is_refused(run_folder):
    (run_folder / "checkpoint-000004").rename(run_folder / "checkpoint-000007")
    with pytest.raises(Refusal, match=r"000007 is damaged \(it was written as step 4, and has another name now\)"):
        fit_points(run_folder, resume="latest", steps=9)


def test_a_file_that_no_save_has_written_is_named(run_folder):
    (run_folder / "checkpoint-000004" / "notes.txt").write_text("keep this one")
    with pytest.raises(Refusal, match=r"notes.txt is none of its files: move that away"):
        fit_points(run_folder, resume="latest")


@pytest.mark.parametrize(
    "name", ["checkpoint-000006.bak", "checkpoint-6", "checkpoint-0000006", "checkpoint-last", "checkpoint-000005 (1)"]
)
def test_copies_under_other_names_are_no_checkpoints(run_folder, name):
    shutil.copytree(run_folder / "checkpoint-000003", run_folder / name)
    assert checkpoints(run_folder).chosen("latest") == run_folder / "checkpoint-000004"
    fit_points(run_folder, resume="latest", steps=6, save_every=1, keep=1)
    assert (run_folder / name).exists()
    with pytest.raises(Refusal, match="is not a whole checkpoint; name a folder checkpoint-N"):
        checkpoints(run_folder).chosen(str(run_folder / name))


def test_files_and_links_are_no_checkpoints(run_folder):
    (run_folder / "checkpoint-000005").write_text("checkpoint-000004")
    (run_folder / "checkpoint-000006").symlink_to(run_folder / "checkpoint-000003")
    assert checkpoints(run_folder).chosen("latest") == run_folder / "checkpoint-000004"


def test_a_checkpoint_of_before_there_were_digests_is_resumed(run_folder, caplog):
    for name in ("files.json", "data.json"):
        (run_folder / "checkpoint-000004" / name).unlink()
    assert torch.equal(weights(fit_points(run_folder, resume="latest")), stored(run_folder, 4))
    assert "has no files.json to compare it with: it is old, or lost it. It is taken as it is." in caplog.text


class OtherPoints(Points):
    def fingerprint(self):
        return {"rows": 13, "file": {"a.parquet": 7}}


def test_data_that_have_changed_are_refused_by_what_has(run_folder, tmp_path):
    fit_points(tmp_path / "new", pairs=OtherPoints(), save_every=4)
    fit_points(tmp_path / "new", resume="latest", pairs=OtherPoints())
    with pytest.raises(Refusal, match=r"data have changed since .*4 was written: file.a.parquet was 7, now None; "):
        fit_points(tmp_path / "new", resume="latest")


def test_a_run_folder_is_no_checkpoint(run_folder, tmp_path):
    with pytest.raises(Refusal, match="is not a whole checkpoint; name a folder checkpoint-N"):
        fit_points(tmp_path / "another", resume=str(run_folder))


def test_flat_joins_nested_names_and_keeps_lists_whole():
    assert flatten_tree({"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": None}) == {
        "a.b.c": 1,
        "a.d": [1, {"e": 2}],
        "f": None,
    }
