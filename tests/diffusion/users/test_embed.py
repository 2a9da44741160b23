import json

import pytest
import torch
from damage import DAMAGES
from tiny_embedders import Means, compared, onevision

from diffpo.annotators.embedders.chat import ChatEmbedder
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.data.rows import ForTraining
from diffpo.diffusion.users.chunks import Cut
from diffpo.diffusion.users.embed import embed_users
from diffpo.diffusion.users.embeddings import UserEmbeddings


@pytest.fixture
def source(tmp_path):
    return Columns(compared(tmp_path / "pairs.parquet", {"a": 5, "b": 4, "c": 1}))


def embedded(source, output_dir, embedder=None, shots=2, **options):
    return embed_users(embedder or Means(), source, output_dir, Cut(shots=shots), **options)


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_summary_is_kept_and_counts(source, tmp_path):
    found = embedded(source, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "users.json").read_text()) == found
    counts = {"users": 2, "users_with_too_few": 1, "chunks": 4, "unreadable": 0, "tokens": 2, "width": 3, "files": 2}
    about = {"embedder": "Means", "model_id": "means", "shots": 2, "seed": 0, "user": "user_id", "pairs": 10}
    assert (counts | about).items() <= found.items()
    names = ["users-00000-of-00002.safetensors", "users-00001-of-00002.safetensors", "users.json", "users.parquet"]
    assert sorted(files(tmp_path / "out")) == ["files.json", *names]
    assert found["bytes"] == sum(len(files(tmp_path / "out")[name]) for name in names[:2])


def test_numbers_are_stored_in_the_type_that_was_asked_for(source, tmp_path):
    kept = {}
    for dtype in ("float32", "bfloat16"):
        embedded(source, tmp_path / dtype, dtype=dtype)
        kept[dtype] = UserEmbeddings(str(tmp_path / dtype)).read("a", 1)
    assert torch.equal(kept["float32"].bfloat16().float(), kept["bfloat16"])


def test_a_chunk_with_a_torn_picture_is_left_out(tmp_path):
    source = Columns(compared(tmp_path / "pairs.parquet", {"a": 2, "b": 4}, torn=0))
    found = embedded(source, tmp_path / "out")
    assert (found["chunks"], found["unreadable"]) == (2, 1)
    assert UserEmbeddings(str(tmp_path / "out")).users == ("b",)


def test_row_maps_apply_before_users_are_counted(source, tmp_path):
    with pytest.raises(Refusal, match="change data.source or data.rows"):
        embedded(source, tmp_path / "out", rows=[ForTraining(1.0)])


def test_shards_do_not_depend_on_how_many_pictures_are_read_at_a_time(source, tmp_path):
    for size in (1, 3):
        embedded(source, tmp_path / str(size), batch_size=size)
    assert files(tmp_path / "1") == files(tmp_path / "3")


def test_a_finished_folder_is_left_alone_and_other_work_in_it_refused(source, tmp_path, monkeypatch):
    first = embedded(source, tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.delattr(Means, "__call__")
        assert embedded(source, tmp_path / "out") == first
    with pytest.raises(Refusal, match="shots was 2 and is 4; choose another output_dir"):
        embedded(source, tmp_path / "out", shots=4)
    with pytest.raises(Refusal, match="is not empty: it holds .*choose another output_dir"):
        embedded(source, tmp_path)


def test_a_stop_costs_no_more_than_a_file(source, tmp_path, monkeypatch):
    calls, embed = [], Means.__call__

    def stopping(self, chunks):
        calls.append(len(chunks))
        if len(calls) == 2:
            raise KeyError
        return embed(self, chunks)

    with monkeypatch.context() as patched:
        patched.setattr(Means, "__call__", stopping)
        with pytest.raises(KeyError):
            embedded(source, tmp_path / "out")
        embedded(source, tmp_path / "out")
    embedded(source, tmp_path / "whole")
    assert calls == [2, 2, 2]
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_pictures_none_of_which_can_be_read_are_told(tmp_path):
    source = Columns(compared(tmp_path / "pairs.parquet", {"a": 2}, torn=1))
    with pytest.raises(Refusal, match="Each of 1 chunks has a picture that cannot be read"):
        embedded(source, tmp_path / "out")


def test_a_vision_language_model_from_pairs_to_files(source, tmp_path):
    embedder = ChatEmbedder(onevision(tmp_path / "onevision"), max_tokens=3, instruction="on the")
    found = embedded(source, tmp_path / "out", embedder, shots=4, dtype="float32")
    users = UserEmbeddings(str(tmp_path / "out"))
    assert (found["chunks"], found["tokens"], found["width"]) == (2, 3, 16)
    assert users.read("a", 0).shape == (3, 16)
    assert set(users.pair_ids("b", 0)) == {5, 6, 7, 8}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["users-00001-of-00002.safetensors", "users.parquet", "users.json"])
def test_a_damaged_file_is_one_line(source, tmp_path, name, damage):
    embedded(source, tmp_path / "out")
    DAMAGES[damage](tmp_path / "out" / name, 4)
    with pytest.raises(Refusal, match=name) as refused:
        UserEmbeddings(str(tmp_path / "out")).read("a", 0)
    assert "\n" not in str(refused.value)
