import pytest
from tiny_embedders import compared

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.diffusion.annotate.pairs_in_order import PairsInOrder
from diffpo.diffusion.users.chunks import Cut


@pytest.fixture
def pairs(tmp_path):
    """Nine pairs of `a`, three of `b`, six of `c` (the last two ties), and two of nobody in between."""
    return PairsInOrder(Columns(compared(tmp_path / "pairs.parquet", {"a": 9, "b": 3, None: 2, "c": 6}, ties=2)))


def test_chunks_do_not_overlap_and_hold_pairs_of_one_user(pairs):
    found = Cut()(pairs)
    assert [(chunk.user, chunk.number, len(chunk.pairs)) for chunk in found.all] == [
        ("a", 0, 4),
        ("a", 1, 4),
        ("c", 0, 4),
    ]
    positions = [n for chunk in found.all for n in chunk.pairs]
    assert len(set(positions)) == 12
    assert {pairs[n].extra["user_id"] for n in found.all[2].pairs} == {"c"}
    assert found.counts == {"ties": 2, "pairs_without_user": 2, "users": 2, "users_with_too_few": 1}


def test_chunks_of_a_user_do_not_depend_on_other_users(pairs, tmp_path):
    alone = PairsInOrder(Columns(compared(tmp_path / "alone.parquet", {"a": 9})))
    assert Cut()(alone).all == Cut()(pairs).all[:2]


def test_another_seed_puts_other_pairs_together(pairs):
    first, again, other = Cut()(pairs), Cut()(pairs), Cut(seed=1)(pairs)
    assert first == again
    assert first.all != other.all


def test_a_user_is_embedded_no_more_often_than_asked(pairs):
    first, *others = Cut(shots=2, most_chunks=1)(pairs).all
    assert [first.user, *(chunk.user for chunk in others)] == ["a", "b", "c"]
    assert first == Cut(shots=2)(pairs).all[0]


def test_labels_and_users_change_the_digest(pairs, tmp_path):
    other = PairsInOrder(Columns(compared(tmp_path / "other.parquet", {"a": 9, "b": 3, None: 2, "d": 6}, ties=2)))
    assert len({Cut()(data).digest for data in (pairs, other)}) == 2


def test_bad_input_is_told_in_a_line(pairs):
    with pytest.raises(Refusal, match="user names the column 'who', the source has prob, prompt, user_id; name the"):
        Cut("who")(pairs)
    with pytest.raises(Refusal, match="None of 3 users in column 'user_id' has 10 pairs with a winner; set shots to"):
        Cut(shots=10)(pairs)
    for numbers in ({"shots": 0}, {"most_chunks": 0}):
        with pytest.raises(Refusal, match="shots and most_chunks must be 1 or more"):
            Cut(**numbers)
