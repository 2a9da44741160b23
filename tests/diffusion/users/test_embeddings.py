import json

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tiny_embedders import Means, compared

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.diffusion.users import embeddings as format
from diffpo.diffusion.users.chunks import Cut
from diffpo.diffusion.users.embed import embed_users
from diffpo.diffusion.users.embeddings import TENSOR, UserEmbeddings, write_shard


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two users with two chunks of two pairs each, and one with one."""
    root = tmp_path_factory.mktemp("users")
    source = Columns(compared(root / "pairs.parquet", {"ann": 4, "7": 5, "cy": 2}))
    embed_users(Means(), source, root / "out", Cut(shots=2), dtype="float32")
    return root / "out"


def test_embeddings_are_found_by_user_and_chunk(folder):
    users = UserEmbeddings(str(folder))
    assert (users.tokens, users.width, users.users) == (2, 3, ("7", "ann", "cy"))
    assert [users.chunks(user) for user in ("ann", 7, "cy")] == [(0, 1), (0, 1), (0,)]
    assert torch.equal(users.read(7, 1), users.read("7", 1))
    assert len({users.read(user, chunk)[0, 0].item() for user in users.users for chunk in users.chunks(user)}) == 5


def test_pairs_and_profile_are_those_of_the_chunk(folder):
    """Pair n has the caption n, of which `Means` makes the profile."""
    users = UserEmbeddings(str(folder))
    for user in users.users:
        for chunk in users.chunks(user):
            assert users.profile(user, chunk) == "; ".join(map(str, users.pair_ids(user, chunk)))


def test_an_embedding_is_read_alone(folder, monkeypatch):
    """Of a file of two, and none of the others."""
    opened, users = [], UserEmbeddings(str(folder))
    opening = format.safe_open
    monkeypatch.setattr(format, "safe_open", lambda file, kind: opened.append(file) or opening(file, kind))
    users.read("ann", 0)
    assert [file.name for file in opened] == ["users-00001-of-00003.safetensors"]


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float16", 2), ("float32", 4)])
def test_a_chunk_of_the_paper_takes_208_kb_in_two_bytes(tmp_path, dtype, size):
    write_shard(tmp_path / "a.safetensors", torch.zeros(2, 29, 3584), dtype)
    header = (tmp_path / "a.safetensors").stat().st_size - 2 * 29 * 3584 * size
    assert 29 * 3584 * 2 == 207_872
    assert 0 < header < 200


def test_outliers_are_kept_by_bfloat16_and_refused_by_float16(tmp_path):
    outlier = torch.full((1, 1, 1), 70000.0)
    write_shard(tmp_path / "a.safetensors", outlier, "bfloat16")
    with pytest.raises(Refusal, match=r"a number of 70000, more than float16 can hold \(65504\); set dtype to"):
        write_shard(tmp_path / "b.safetensors", -outlier, "float16")
    for bad in (torch.inf, torch.nan):
        with pytest.raises(Refusal, match="not finite.* set embedder.dtype to bfloat16"):
            write_shard(tmp_path / "b.safetensors", outlier * bad, "float32")
    assert not (tmp_path / "b.safetensors").exists()


def test_a_full_disk_is_told_in_a_line(tmp_path, monkeypatch):
    def full(*arguments):
        save_file(*arguments)
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(format, "save_file", full)
    with pytest.raises(Refusal, match=r"a.safetensors could not be written \(No space left on device\). Make room"):
        write_shard(tmp_path / "a.safetensors", torch.zeros(1, 1, 1), "float32")
    assert not (tmp_path / "a.safetensors").exists()


def test_users_and_chunks_that_are_not_there_are_told(folder):
    users = UserEmbeddings(str(folder))
    with pytest.raises(Refusal, match="User 'bob' has no embedding in .*, which knows 3 users; embed the user with"):
        users.read("bob", 0)
    with pytest.raises(Refusal, match=r"User 'cy' has no chunk 1 in .*; there are \[0\]"):
        users.pair_ids("cy", 1)


def test_embeddings_of_another_model_or_width_are_told(folder):
    users = UserEmbeddings(str(folder))
    users.require("means", 2, 3)
    users.require()
    with pytest.raises(Refusal, match="holds embeddings with model_id 'means' instead of 'a/b', width 3 instead of 8"):
        users.require(model_id="a/b", tokens=2, width=8)


def test_a_folder_that_is_unfinished_or_lacks_a_file_is_told(folder, tmp_path):
    with pytest.raises(Refusal, match=r"\(users.json is missing\); run scripts/embed_users.py, which goes on"):
        UserEmbeddings(str(tmp_path)).tokens  # noqa: B018
    (tmp_path / "users.json").write_text(json.dumps({"files": 2}))
    save_file({TENSOR: torch.zeros(1, 1, 1)}, tmp_path / "users-00001-of-00002.safetensors")
    with pytest.raises(Refusal, match="lacks 2 of its files, the first is users.parquet; copy the folder again"):
        UserEmbeddings(str(tmp_path)).chunks("a")


def test_a_folder_that_is_not_there_does_not_count_as_unfinished(tmp_path):
    with pytest.raises(Refusal, match="There is no .*nope, which was named as embeddings of users"):
        _ = UserEmbeddings(str(tmp_path / "nope")).summary
