import json

import pytest
from tiny_embedders import compared
from tiny_judges import drawn

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.diffusion.annotate.pairs_in_order import PairsInOrder
from diffpo.diffusion.users.chunks import Cut
from diffpo.diffusion.users.panel import Panel, Query, drawn_in

USERS = {"ann": 5, "bob": 3, "cid": 2, None: 1}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return PairsInOrder(Columns(compared(tmp_path_factory.mktemp("data") / "pairs.parquet", USERS)))


def ids(rows) -> list[int]:
    return [row.id for row in rows]


def test_support_is_the_first_embedding_of_the_same_seed(pairs):
    seated = Panel(shots=2, seed=3).seat(pairs)
    firsts = {chunk.user: chunk.pairs for chunk in Cut(shots=2, seed=3)(pairs).all if chunk.number == 0}
    assert {user: tuple(ids(seated.support(user))) for user in firsts} == firsts


def test_labeled_pairs_are_others_than_the_support_and_no_more_than_asked(pairs):
    seated = Panel(shots=2, labeled=2).seat(pairs)
    assert seated.testable == ["ann", "bob"]
    queries = seated.known(seated.testable)
    assert [query.user for query in queries] == ["ann", "ann", "bob"]
    for query in queries:
        assert query.pair not in ids(query.support)
        assert query.caption == str(query.pair)


def test_a_support_pair_that_is_also_the_query_is_refused(pairs):
    with pytest.raises(Refusal, match=r"Pair 1 of user 'ann' is to be judged and is part of the support \[0, 1\]"):
        Query("ann", (pairs[0], pairs[1]), "a", lambda: None, lambda: None, pair=1)


def test_some_users_are_the_same_whoever_else_there_is():
    everybody = [f"user{n}" for n in range(40)]
    few, more = (Panel(most_users=count).first(everybody) for count in (3, 10))
    assert len(few) == 3
    assert set(few) < set(more)
    assert Panel(most_users=3, seed=1).first(everybody) != few
    assert Panel().first(everybody[::-1]) == sorted(everybody)


def test_too_few_pairs_are_told(pairs):
    with pytest.raises(Refusal, match="User 'cid' has 2 pairs with a winner in the source, the judge is to see 3"):
        Panel(shots=3).seat(pairs).support("cid")
    with pytest.raises(Refusal, match="User 'zoe' has 0 pairs"):
        Panel().seat(pairs).support("zoe")
    with pytest.raises(Refusal, match="None of 3 users in column 'user_id' has more than 5 pairs"):
        _ = Panel(shots=5).seat(pairs).testable
    with pytest.raises(Refusal, match="shots must be 1 or more.* got 0, 4 and None"):
        Panel(shots=0)


def test_pictures_are_found_user_by_user(pairs, tmp_path):
    folder = drawn(tmp_path / "ours", {"bob": ["white"], "ann": ["white", "red"]})
    (folder / "bob" / "prompts.jsonl").write_text(json.dumps({"prompt": "a", "file": "other.png"}) + "\n")
    found = drawn_in(folder)
    assert [(one.prompt, one.file) for one in found.of_user["bob"]] == [("a", str(folder / "bob" / "other.png"))]
    assert [file.name for file in found.files] == ["00000.png", "00001.png", "other.png"]
    [first, second] = Panel(shots=1).seat(pairs).drawn(["ann"], found, found)
    assert (first.user, first.caption, first.pair, second.caption) == ("ann", "prompt 0", None, "prompt 1")
    assert second.ours().getpixel((0, 0)) == (255, 0, 0)


def test_other_users_or_prompts_are_told(tmp_path):
    ours = drawn_in(drawn(tmp_path / "ours", {"ann": ["white"], "bob": ["white"]}))
    theirs = drawn_in(drawn(tmp_path / "theirs", {"ann": ["white"]}))
    for one, two in ((ours, theirs), (theirs, ours)):
        with pytest.raises(Refusal, match=r"ours has pictures for user 'bob', .*theirs has none"):
            one.require_like(two)
    more = drawn_in(drawn(tmp_path / "more", {"ann": ["white", "red"]}))
    with pytest.raises(Refusal, match=r"For user 'ann', .*more has 2 pictures and .*theirs has 1"):
        more.require_like(theirs)
    with pytest.raises(Refusal, match=r"ann has no pictures for users; each user x needs x/prompts.jsonl"):
        drawn_in(tmp_path / "more" / "ann")
    with pytest.raises(Refusal, match=r"There is no .*nope, which was named as pictures for users"):
        drawn_in(tmp_path / "nope")
