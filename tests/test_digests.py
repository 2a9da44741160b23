import hashlib
import json

import pytest
from damage import DAMAGES

from diffpo.digests import FILES, digest_of, name_files, named_in, wrong_file, wrong_size


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
