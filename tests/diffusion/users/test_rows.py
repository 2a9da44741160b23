from dataclasses import replace

import pytest
import torch

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.rows import PairRow, Reverse
from diffpo.diffusion.users.embeddings import UserEmbeddings
from diffpo.diffusion.users.rows import DropUnembedded, ForUser, Shots

CHUNKS = {"ann": {0: (0, 1, 2, 3), 1: (4, 5, 6, 7)}, "bob": {0: (8, 9, 10, 11)}}


class Embeddings(UserEmbeddings):
    """As `UserEmbeddings`, of two users; an embedding says its user and chunk."""

    tokens, width = 1, 2

    def knows(self, user):
        return str(user) in CHUNKS

    def chunks(self, user):
        return tuple(CHUNKS[user])

    def pair_ids(self, user, chunk):
        return CHUNKS[user][chunk]

    def read(self, user, chunk):
        return torch.tensor([[float(list(CHUNKS).index(user)) + 1, float(chunk)]])


def for_user(**changed) -> ForUser:
    row_map = ForUser("nowhere", **changed)
    vars(row_map)["users"] = Embeddings("nowhere")
    return row_map


def row(number: int, user: str | int = "ann") -> PairRow:
    return PairRow(number, ("p", "p"), ("a", "b"), extra={"user_id": user})


def draws(number: int, epoch: int = 0) -> Draws:
    return Draws(0, (epoch,), (number,))


def read(found: PairRow, epoch: int = 0) -> list[float]:
    return found.shots.read(draws(found.id, epoch))[0].tolist()


def test_a_pair_never_meets_an_embedding_that_was_made_of_it():
    found = for_user(dropout=0.0)(row(5), draws(5))
    assert {tuple(read(found, epoch)) for epoch in range(50)} == {(1.0, 0.0)}


def test_other_pairs_meet_all_chunks_of_their_user():
    found = for_user(dropout=0.0)(row(99), draws(99))
    assert {tuple(read(found, epoch)) for epoch in range(50)} == {(1.0, 0.0), (1.0, 1.0)}


def test_a_pair_whose_user_has_no_other_embedding_is_dropped():
    assert for_user()(row(8, "bob"), draws(8)) is None
    assert for_user()(row(12, "bob"), draws(12)) is not None


def test_dropped_users_are_zeros_in_the_share_that_is_asked():
    found = for_user(dropout=0.25)(row(99), draws(99))
    nobody = [read(found, epoch) == [0.0, 0.0] for epoch in range(2000)]
    assert sum(nobody) == pytest.approx(500, abs=70)


def test_the_same_visit_hears_the_same():
    found = for_user()(row(99), draws(99))
    assert [read(found, epoch) for epoch in range(9)] == [read(found, epoch) for epoch in range(9)]


def test_swapping_sides_keeps_the_user():
    found = for_user()(row(99), draws(99))
    turned = Reverse()(found, draws(99))
    assert turned.shots == found.shots
    assert isinstance(turned.shots, Shots)


def test_a_row_without_a_user_is_told_what_writes_them():
    with pytest.raises(Refusal, match="ForUser needs column 'user_id'.*embed_users"):
        for_user()(replace(row(0), extra={}), draws(0))


@pytest.mark.parametrize(("user", "kept"), [("ann", True), ("bob", True), ("cyd", False), (7, False), (None, False)])
def test_pairs_of_users_without_an_embedding_and_of_nobody_are_dropped(user, kept):
    row_map = DropUnembedded("nowhere")
    vars(row_map)["users"] = Embeddings("nowhere")
    found = row(99, user)
    assert row_map(found, draws(99)) is (found if kept else None)


def test_a_source_without_users_is_refused_by_what_drops_them():
    with pytest.raises(Refusal, match="DropUnembedded needs column 'user_id'.*embed_users"):
        DropUnembedded("nowhere")(replace(row(0), extra={}), draws(0))


def test_a_dropout_that_is_no_share_is_refused():
    with pytest.raises(Refusal, match=r"dropout in \[0, 1\], got 2"):
        ForUser("x", dropout=2.0)
