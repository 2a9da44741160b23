"""From pairs of users to a trained branch: what batches tell, and that encoded pairs tell the same."""

import json

import pytest
import torch
from tiny import saved
from tiny_embedders import Means, compared

from diffpo.cli.command import parse
from diffpo.commands import train as train_diffusion_dpo
from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.data.mixture import Mixed
from diffpo.data.rows import DropTies
from diffpo.data.sampler import ProcessShare
from diffpo.diffusion.data.encoded import EncodedPairs
from diffpo.diffusion.data.framing import Framing
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.encode.encode import encode_pairs
from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.diffusion.users.chunks import Cut
from diffpo.diffusion.users.embed import embed_users
from diffpo.diffusion.users.embeddings import UserEmbeddings
from diffpo.diffusion.users.rows import DropUnembedded, ForUser

USERS = {"ann": 8, "bob": 4, "cid": 2}  # pairs of each; chunks of two


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("users")
    pairs = compared(root / "pairs.parquet", USERS)
    embed_users(Means(), Columns(pairs), root / "users", Cut(shots=2), [DropTies()])
    saved(root / "base")
    return root


def data(world, dropout: float = 0.0, **changed) -> PairData:
    rows = [DropTies(), ForUser(str(world / "users"), dropout=dropout)]
    settings = {"framing": Framing(32), "caption_dropout": 0.0, "workers": 0} | changed
    return PairData(Columns(str(world / "pairs.parquet")), rows, **settings)


def first(some: PairData, n: int = 12):
    return next(iter(some.open().batches(ProcessShare(n, 0))))


def test_a_batch_tells_each_pairs_user_by_an_embedding_that_was_not_made_of_it(world):
    raw, users = first(data(world)), UserEmbeddings(str(world / "users"))
    table = data(world).open().tables[0]
    rows = {row.id: row for row in (table[i] for i in range(len(table)))}
    for row, tokens in zip(raw.row, raw.user, strict=True):
        user = rows[row].shots.user
        allowed = [users.read(user, chunk) for chunk in users.chunks(user) if row not in users.pair_ids(user, chunk)]
        assert any(torch.equal(tokens, one) for one in allowed)


def test_a_user_of_one_chunk_is_dropped_and_counted(world):
    """cid's two pairs made the only embedding."""
    assert "12 of 14 rows were kept, ForUser dropped 2" in data(world).open().report()


def test_users_with_too_few_pairs_are_counted_by_embedding_and_left_out_of_training(world):
    found = embed_users(Means(), Columns(str(world / "pairs.parquet")), world / "of_three", Cut(shots=3), [DropTies()])
    assert (found["users"], found["users_with_too_few"]) == (2, 1)
    source, hears = Columns(str(world / "pairs.parquet")), ForUser(str(world / "of_three"))
    with pytest.raises(Refusal, match=r"User 'cid' has no embedding .*: diffpo.diffusion.DropUnembedded before"):
        PairData(source, [hears]).open()
    rows = [DropUnembedded(str(world / "of_three")), hears]
    assert "DropUnembedded dropped 2" in PairData(source, rows, Framing(32)).open().report()


def test_both_sides_are_told_the_same_user(world):
    model, raw = StableDiffusion(str(world / "base")).load(), first(data(world), 4)
    _, batch = model.prepare(model.unet, raw, Draws(0, raw.epoch, raw.row))
    assert batch.cond.user.shape == (2, 4, *raw.user.shape[1:])
    assert torch.equal(batch.cond.user[0], batch.cond.user[1])


def test_encoded_pairs_tell_the_same_users(world, tmp_path):
    some = data(world, dropout=0.5)
    encode_pairs(StableDiffusion(str(world / "base")), some, tmp_path / "encoded", batch_size=4)
    encoded = PairData(EncodedPairs(str(tmp_path / "encoded")), some.rows, Framing(32), 0.0, 0)
    one, two = first(some), first(encoded)
    assert one.row == two.row
    assert torch.equal(two.cond.user[0], one.user)
    assert {bool(tokens.any()) for tokens in one.user} == {True, False}


def test_users_count_alike_if_asked(world):
    """ann has twice bob's pairs; three visits each make an epoch."""
    pairs = data(world, per_user=3).open()
    raw = next(iter(pairs.batches(ProcessShare(6, 0))))
    table = pairs.tables[0]
    users = {row.id: row.shots.user for row in (table[i] for i in range(len(table)))}
    assert sorted(users[row] for row in raw.row) == ["ann"] * 3 + ["bob"] * 3
    assert pairs.size == 6


def test_equal_counts_need_users(world):
    with pytest.raises(Refusal, match=r"data\.per_user needs to know users; add diffpo\.diffusion\.ForUser"):
        PairData(Columns(str(world / "pairs.parquet")), per_user=3)


def test_embeddings_of_one_source_are_not_used_for_several(world):
    source = Columns(str(world / "pairs.parquet"))
    with pytest.raises(Refusal, match="Embeddings of users belong to one source"):
        PairData(Mixed([source, source], [1.0, 1.0]), data(world).rows).open()


def test_a_branch_is_trained_by_the_script_and_loads(world, tmp_path):
    tokens, width = UserEmbeddings(str(world / "users")).tokens, UserEmbeddings(str(world / "users")).width
    rows = [
        {"class_path": "diffpo.data.DropTies"},
        {"class_path": "diffpo.diffusion.ForUser", "init_args": {"embeddings": str(world / "users")}},
    ]
    overrides = [
        "--config=configs/quickstart.yaml",
        f"--base.path={world / 'base'}",
        "--base.adapter=diffpo.diffusion.UserBranch",
        f"--base.adapter.tokens={tokens}",
        f"--base.adapter.width={width}",
        "--data.source=diffpo.data.Columns",
        f"--data.source.path={world / 'pairs.parquet'}",
        f"--data.rows={json.dumps(rows)}",
        "--data.per_user=2",
        f"--output_dir={tmp_path / 'run'}",
        "--fit.steps=2",
        "--fit.batch_size=4",
        "--fit.per_device_batch_size=2",
        "--preview=null",
        "--evaluation=null",
    ]
    chosen, settings = parse(train_diffusion_dpo.main, overrides)
    train_diffusion_dpo.main(**chosen, settings=settings)
    assert (tmp_path / "run" / "user_attention.safetensors").exists()
    assert "load_user_attention" in (tmp_path / "run" / "README.md").read_text()
