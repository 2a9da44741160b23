import hashlib
import json
import os

import pytest
from damage import DAMAGES

from diffpo.core.refusal import Refusal
from diffpo.storage import digests as module
from diffpo.storage.digests import (
    FILES,
    digest_of,
    forget_exported,
    name_exported,
    name_files,
    name_written,
    named_in,
    not_as_written,
    read_json,
    read_named,
    require_exported,
    require_written,
    wrong_file,
    wrong_size,
)


@pytest.fixture
def folder(tmp_path):
    for name in ("a.bin", "inner/b.txt", "empty"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 100 if name != "empty" else b"")
    name_files(tmp_path, {"step": 3})
    return tmp_path


def test_every_file_is_named_with_size_and_digest(folder):
    said = json.loads((folder / FILES).read_text())
    assert said["step"] == 3
    assert list(said["files"]) == ["a.bin", "empty", "inner/b.txt"]
    content = b"a.bin" * 100
    assert said["files"]["a.bin"] == {"bytes": 500, "sha256": hashlib.sha256(content).hexdigest()}
    assert all(not wrong_file(folder, name, entry) for name, entry in said["files"].items())


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_not_what_was_written_is_named(folder, damage):
    entry = digest_of(folder / "inner/b.txt")
    DAMAGES[damage](folder / "inner/b.txt", 0)
    assert wrong_file(folder, "inner/b.txt", entry).startswith("inner/b.txt ")
    assert bool(wrong_size(folder, "inner/b.txt", entry)) == (damage != "flipped")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"files": 3}', '{"step": 3}', "\x00", "nonsense"])
def test_a_list_that_is_none_is_a_value_error(tmp_path, content):
    (tmp_path / FILES).write_text(content)
    with pytest.raises(ValueError, match=r"."):
        named_in(tmp_path)


def test_no_list_is_none(tmp_path):
    assert named_in(tmp_path) is None


def written(folder, *names: str) -> None:
    for name in names:
        (folder / name).write_text(name * 50)
    name_files(folder, {})


def test_what_was_written_is_read_once_for_each_state(tmp_path, monkeypatch):
    written(tmp_path, "a", "b")
    files, read = named_in(tmp_path)["files"], []
    monkeypatch.setattr(module, "digest_of", lambda file: read.append(file.name) or digest_of(file))
    for _ in range(2):
        assert not_as_written(tmp_path, files) == {}
    assert sorted(read) == ["a", "b"]
    os.utime(tmp_path / "a", (1, 1))
    assert not_as_written(tmp_path, files) == {}
    assert sorted(read) == ["a", "a", "b"]


@pytest.mark.parametrize("before", [False, True], ids=["at first", "after it was looked at"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_folder_is_named_with_the_remedy(tmp_path, damage, before):
    written(tmp_path, "a", "b")
    if before:
        require_written(tmp_path, ["a", "b"], "copy it")
    DAMAGES[damage](tmp_path / "b", 1)
    for _ in range(2):
        with pytest.raises(Refusal, match=f"^{tmp_path} is damaged: b .*; copy it.$"):
            require_written(tmp_path, ["a", "b"], "copy it")


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_what_was_looked_at_makes_it_be_read_again(tmp_path, damage):
    written(tmp_path, "a")
    require_written(tmp_path, ["a"], "copy it")
    DAMAGES[damage](tmp_path / ".checked.json", 5)
    require_written(tmp_path, ["a"], "copy it")


def test_a_file_that_the_list_does_not_name_is_named(tmp_path):
    written(tmp_path, "a")
    with pytest.raises(Refusal, match="files.json does not name b, which belongs to the folder; copy it"):
        require_written(tmp_path, ["a", "b"], "copy it")


def test_a_folder_without_a_list_is_told(tmp_path, caplog):
    require_written(tmp_path, ["a"], "copy it")
    assert "has no files.json, so its files are taken as they are" in caplog.text


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_json_file_is_one_line(tmp_path, damage):
    (tmp_path / "scores.json").write_text('{"min": 0.125, "max": 2}')
    name_files(tmp_path, {})
    assert read_json(tmp_path / "scores.json") == {"min": 0.125, "max": 2}
    DAMAGES[damage](tmp_path / "scores.json", 2)
    with pytest.raises(Refusal, match=r"scores.json is damaged \(.*\); copy it again") as refused:
        read_json(tmp_path / "scores.json")
    assert "\n" not in str(refused.value)


LORA, UNET = "pytorch_lora_weights.safetensors", "unet/config.json"


@pytest.fixture
def run(tmp_path):
    """What a run leaves: exports, and what else is beside them."""
    for name in (LORA, UNET, "vocab.txt", "README.md", "config.yaml", "metrics.jsonl", "log.txt", "report.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'"{name}"')
    name_written(tmp_path, "report.json", b'"report.json"')
    name_exported(tmp_path, ["vocab.txt", "absent.txt"])
    return tmp_path


def names_of(folder) -> list[str]:
    return sorted((named_in(folder) or {"files": {}})["files"])


def test_what_was_exported_and_reported_is_named_and_nothing_that_people_may_change(run):
    assert names_of(run) == [LORA, "report.json", UNET, "vocab.txt"]
    require_exported(run)
    for name in ("README.md", "config.yaml", "metrics.jsonl", "log.txt"):
        (run / name).write_text("mine")
    require_exported(run)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("name", "place"), [(LORA, ""), (UNET, ""), (UNET, "unet"), ("vocab.txt", "")])
def test_damage_to_an_export_is_one_line_with_cause_and_remedy(run, damage, name, place):
    require_exported(run / place)
    DAMAGES[damage](run / name, 3)
    with pytest.raises(Refusal, match=f"^{run} is not as it was written: {name} .*; copy .*remove {run}/files.json.$"):
        require_exported(run / place)


@pytest.mark.parametrize("name", [LORA, UNET])
def test_a_file_that_is_named_by_itself_is_compared_alone(run, name):
    (run / "vocab.txt").unlink()
    require_exported(run / name)
    (run / name).write_text("of another run")
    with pytest.raises(Refusal, match=f"{name} has 14 bytes, not those that were written"):
        require_exported(run / name)


@pytest.mark.parametrize("name", ["report.json", "utilities.json", "before_after.png", "users.png", "between.png"])
def test_damage_to_what_an_evaluation_found_does_not_keep_weights_from_being_loaded(run, name):
    name_written(run, name, b"4")
    (run / name).write_text("3")
    require_exported(run)
    name_exported(run)
    for read in (read_json, read_named):
        with pytest.raises(Refusal, match=rf"{name} is damaged \(it is not what was written\)"):
            read(run / name)


def test_a_file_of_any_kind_is_read_if_it_is_what_was_written_or_nothing_tells(run):
    assert read_named(run / LORA) == f'"{LORA}"'.encode()
    assert read_named(run / "log.txt") == b'"log.txt"'
    with pytest.raises(Refusal, match=r"no.txt is damaged \(.*No such file.*\); copy it again"):
        read_named(run / "no.txt")


def test_folders_without_a_list_and_names_on_the_hub_are_taken_as_they_are(run):
    (run / FILES).unlink()
    (run / LORA).write_text("changed on purpose")
    require_exported(run)
    require_exported(run / "unet")
    require_exported(run / "no" / "such")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"files": 3}', "nonsense"])
def test_a_damaged_list_of_exports_is_told_and_written_anew(run, content, caplog):
    (run / FILES).write_text(content)
    require_exported(run)
    assert f"{run}/files.json is damaged, or something else: the files there are taken as they are" in caplog.text
    name_exported(run)
    assert "it is written anew" in caplog.text
    assert names_of(run) == [LORA, UNET]


def test_a_list_that_is_in_no_folder_of_a_run_is_not_asked(run):
    """Only `unet/` is named from above."""
    (run / "other").mkdir()
    (run / FILES).write_text("[]")
    require_exported(run / "other")


def test_an_export_that_is_repeated_forgets_the_former_one_and_keeps_the_report(run):
    forget_exported(run)
    assert names_of(run) == ["report.json"]
    (run / LORA).write_text("half of a new one, then a kill")
    require_exported(run)
    (run / UNET).unlink()
    name_exported(run)
    assert names_of(run) == [LORA, "report.json"]
    require_exported(run)


def test_a_report_that_is_written_anew_is_first_forgotten(run):
    name_written(run, "report.json", None)
    assert names_of(run) == [LORA, UNET, "vocab.txt"]
    (run / "report.json").write_text("3")
    assert read_json(run / "report.json") == 3
    forget_exported(run)
    assert not (run / FILES).exists()


def test_an_export_is_read_once_in_a_program_and_again_when_it_changes(run, monkeypatch):
    read = []
    monkeypatch.setattr(module, "digest_of", lambda file: read.append(file.name) or digest_of(file))
    for place in (run, run, run / "unet", run / LORA):
        require_exported(place)
    assert read == []  # since it was written
    os.utime(run / LORA, (1, 1))
    for place in (run, run / LORA):
        require_exported(place)
    assert read == [LORA]
