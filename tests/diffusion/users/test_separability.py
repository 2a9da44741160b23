import pytest
import torch

from diffpo.core.refusal import Refusal
from diffpo.diffusion.users.embeddings import UserEmbeddings, shard_names, write_index, write_shard
from diffpo.diffusion.users.separability import rank_users, recognize_users


def stored(folder, users: dict[str, list[list[float]]]) -> UserEmbeddings:
    """Embeddings of a first token that says nothing and a last one with the given numbers."""
    [name] = shard_names(1)
    lines = [(user, chunk, token) for user, tokens in users.items() for chunk, token in enumerate(tokens)]
    last = torch.tensor([token for *_, token in lines])[:, None]
    write_shard(folder / name, torch.cat([torch.ones_like(last), last], dim=1), "float32")
    index = [
        {"user_id": user, "chunk": chunk, "pair_ids": [], "profile": "", "file": name, "row": row}
        for row, (user, chunk, _) in enumerate(lines)
    ]
    write_index(folder / "users.parquet", index)
    (folder / "users.json").write_text('{"files": 1}')
    return UserEmbeddings(str(folder))


def test_the_last_chunk_goes_to_the_nearest_mean(tmp_path):
    """Of three users one points the other way in the held-out chunk; a fourth has too few chunks to count."""
    right, left, up = [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]
    found = recognize_users(stored(tmp_path, {"a": [right] * 3, "b": [left] * 3, "c": [up, up, right], "d": [up] * 2}))
    assert found == (3, pytest.approx(2 / 3), 1.0)


def test_ranks_count_nearer_means_and_ties():
    means = torch.eye(3)[:, None]
    held_out = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.5, 0.0], [1.0, 1.0, 1.0]])[:, None]
    assert rank_users(held_out, means).tolist() == [0, 1, 2]


def test_too_few_chunks_are_told(tmp_path):
    users = stored(tmp_path, {"a": [[1.0]] * 3, "b": [[1.0]] * 2})
    with pytest.raises(Refusal, match="1 of 2 users in .* have 3 chunks or more, telling them apart takes 2 such"):
        recognize_users(users)
