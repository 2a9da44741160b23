from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tiny import drawn, pipeline, saved, trained
from tiny_embedders import Means, compared

from diffpo.annotators.embedders.embedder import embed_pairs
from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import read_image
from diffpo.data.layouts import Columns
from diffpo.diffusion.evaluation import drawing
from diffpo.diffusion.evaluation.drawing import Sampling
from diffpo.diffusion.users.branch import UserBranch
from diffpo.diffusion.users.drawing import Support, UserModel, drawn_for_users, shuffle_users, win_rate_by_users

PROMPTS = ["a red circle", "a blue cross on the left"]
SAMPLING = Sampling(pictures=1, steps=1, guidance=2.0, batch_size=2)


@dataclass(frozen=True, eq=False)
class Bright(Means):
    """Of what `Means` finds, which normalization would turn into zeros, tokens of three different numbers."""

    def __call__(self, chunks):
        found = super().__call__(chunks)
        return found._replace(tokens=found.tokens * torch.tensor([1.0, -2.0, 3.0]) + torch.tensor([3e2, 1.0, 0.0]))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base, what was trained to hear users on top of it, a UNet of one user's own, and pairs of three users."""
    root = tmp_path_factory.mktemp("world")
    saved(root / "base")
    branch, pipe = UserBranch(tokens=2, width=3, rank=4), pipeline()
    trained(pipe.unet).save_pretrained(root / "own" / "ann" / "unet")
    for user in ("bob", "cid"):
        pipeline().unet.save_pretrained(root / "own" / user / "unet")
    pipe = pipeline()
    branch.attach(pipe.unet)
    trained(pipe.unet, by=0.5)
    branch.save(pipe, root / "hearing")
    compared(root / "pairs.parquet", {"ann": 4, "bob": 4, "cid": 4, "dan": 2})
    return root


@pytest.fixture(scope="module")
def support(world):
    return Support.of(Bright(), Columns(str(world / "pairs.parquet")), pairs=3)


def model(world, name: str, **more) -> UserModel:
    return UserModel(name, str(world / "base"), **more)


def pictures(files) -> list[bytes]:
    return [read_image(str(file)).tobytes() for file in files]


def test_fewer_shots_are_the_first_of_a_users_pairs(support):
    assert list(support.shown) == ["ann", "bob", "cid"]
    assert [len(shown) for shown in support.shown.values()] == [3, 3, 3]
    assert torch.equal(support.tokens("bob", 2), embed_pairs(Bright(), support.shown["bob"][:2]))
    assert not torch.equal(support.tokens("bob", 2), support.tokens("bob", 3))


def test_a_model_that_hears_nobody_draws_once_for_all(world, support, tmp_path):
    (files,) = drawn_for_users(model(world, "base"), support, PROMPTS, SAMPLING, tmp_path).values()
    assert files["ann"] == files["bob"] == files["cid"]
    assert len(files["ann"]) == 2


def test_users_with_models_of_their_own_get_the_pictures_of_theirs(world, support, tmp_path):
    base, own = model(world, "base"), model(world, "own", unet=f"{world}/own/{{user}}")
    (plain,), (files,) = (drawn_for_users(m, support, PROMPTS, SAMPLING, tmp_path).values() for m in (base, own))
    assert pictures(files["ann"]) != pictures(plain["ann"])
    assert pictures(files["bob"]) == pictures(files["cid"]) == pictures(plain["bob"])


def test_a_model_that_hears_draws_for_each_user_and_number_of_shots(world, support, tmp_path):
    hearing = model(world, "ppd", user_attention=str(world / "hearing"), shots=[1, 3])
    rows = drawn_for_users(hearing, support, PROMPTS, SAMPLING, tmp_path)
    assert list(rows) == ["ppd-1", "ppd-3"]
    pipe = hearing.hearing()
    for user in ("ann", "bob"):
        pipe.for_user(support.tokens(user, 3))
        made = drawing.generate_pictures(pipe, PROMPTS, [0, 1], 1, 2.0, 2)
        assert pictures(rows["ppd-3"][user]) == [picture.tobytes() for picture in made]
    assert pictures(rows["ppd-3"]["ann"]) != pictures(rows["ppd-3"]["bob"])


def test_a_user_of_whom_nothing_is_heard_gets_the_pictures_of_the_base(world, support, tmp_path):
    deaf = model(world, "deaf", user_attention=str(world / "hearing"), user_guidance=0.0, shots=[1])
    models = deaf, model(world, "base")
    (nothing,), (plain,) = (drawn_for_users(m, support, PROMPTS, SAMPLING, tmp_path).values() for m in models)
    assert [pictures(files) for files in nothing.values()] == [pictures(files) for files in plain.values()]


def test_shuffled_users_are_heard_as_somebody_else(world, support, tmp_path):
    path = str(world / "hearing")
    (own,) = drawn_for_users(model(world, "ppd", user_attention=path), support, PROMPTS, SAMPLING, tmp_path).values()
    mixed = model(world, "shuffled", user_attention=path, shuffled=True)
    (files,) = drawn_for_users(mixed, support, PROMPTS, SAMPLING, tmp_path).values()
    for user, other in shuffle_users(list(support.shown)).items():
        assert pictures(files[user]) == pictures(own[other])


def test_nobody_is_heard_as_oneself():
    for seed in range(5):
        found = shuffle_users(["ann", "bob", "cid"], seed)
        assert sorted(found) == sorted(found.values()) == ["ann", "bob", "cid"]
        assert all(user != other for user, other in found.items())


def test_what_is_drawn_is_not_drawn_again_but_for_other_support(world, support, tmp_path, monkeypatch):
    hearing = model(world, "ppd", user_attention=str(world / "hearing"))
    drawn_for_users(hearing, support, PROMPTS, SAMPLING, tmp_path)
    monkeypatch.setattr(drawing, "generate_pictures", lambda *a, **k: pytest.fail("drawn again"))
    drawn_for_users(hearing, support, PROMPTS, SAMPLING, tmp_path)
    other = Support.of(Bright(), Columns(str(world / "pairs.parquet")), pairs=3, seed=1)
    with pytest.raises(Refusal, match="results of something else"):
        drawn_for_users(hearing, other, PROMPTS, SAMPLING, tmp_path)


def test_a_pipeline_for_one_user_draws_for_that_user_and_for_zeros_as_the_base(world, support):
    pipe = model(world, "ppd", user_attention=str(world / "hearing")).hearing()
    ann = drawn(pipe.for_user(support.tokens("ann", 3)))
    assert np.array_equal(drawn(pipe.for_user(torch.zeros(2, 3))), drawn(pipeline()))
    assert not np.array_equal(ann, drawn(pipeline()))


@pytest.mark.parametrize("shots", [[], [0, 1]])
def test_shots_are_one_or_more(shots):
    with pytest.raises(Refusal, match="needs numbers of support pairs from 1 on"):
        UserModel("ppd", "base", shots=shots)


def test_a_win_rate_counts_ties_half():
    ours, theirs = np.array([[[1.0, 0.0], [1.0, 1.0]]]), np.array([[[0.0, 0.0], [1.0, 2.0]]])
    assert win_rate_by_users(ours, theirs).rate == (1 + 0.5 + 0.5 + 0) / 4
    same = win_rate_by_users(ours, ours)
    assert (same.rate, same.low, same.high) == (0.5, 0.5, 0.5)


def test_the_interval_knows_that_users_differ():
    """Half of the users prefer everything, half nothing: many prompts do not help, many users do."""

    def width(users: int, prompts: int) -> float:
        ours = np.broadcast_to(np.arange(users)[:, None, None] % 2, (users, prompts, 1)).astype(float)
        found = win_rate_by_users(ours, np.full(ours.shape, 0.5))
        return found.high - found.low

    assert width(8, 100) == pytest.approx(width(8, 4))
    assert width(8, 4) == pytest.approx(2 * 1.96 * 0.5 / 8**0.5, rel=0.2)
    assert width(128, 4) < width(8, 4) / 3
