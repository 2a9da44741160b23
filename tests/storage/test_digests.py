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
    name_files,
    named_in,
    not_as_written,
    read_json,
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
