import json
from itertools import pairwise

import pytest
from tiny_embedders import compared
from tiny_judges import Bright, drawn

from diffpo.annotators.captioners.roles import Interrupted
from diffpo.annotators.user_judges.roles import Verdict
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.diffusion.users.judge import judge_users
from diffpo.diffusion.users.panel import Panel

PANEL = Panel(shots=2, labeled=2)
USERS = {"ann": 4, "bob": 4}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Chosen pictures are of noise, rejected ones black: whoever likes bright ones agrees with all labels."""
    return Columns(compared(tmp_path_factory.mktemp("data") / "pairs.parquet", USERS))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Ours wins 1 of 2 for Ann, both for Bob; the other picture of Ann cannot be read."""
    root = tmp_path_factory.mktemp("models")
    ours = drawn(root / "ours", {"ann": ["white", "black"], "bob": ["white", "red"]})
    return ours, drawn(root / "theirs", {"ann": ["black", "white"], "bob": ["black", "black"]})


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]


def test_a_judge_of_known_taste_is_right_and_finds_the_better_model(source, models, tmp_path):
    judge = Bright()
    found = judge_users(judge, source, tmp_path / "out", PANEL, models)
    known, between = found["known"], found["compared"]
    assert (known["win_rate"], known["pairs"], known["inconsistent"], known["first"]) == (1.0, 4, 0.0, 0.5)
    assert (between["win_rate"], between["wins"], between["losses"]) == (0.75, 3, 1)
    assert {user: entry["win_rate"] for user, entry in between["per_user"].items()} == {"ann": 0.5, "bob": 1.0}
    assert found == json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(judge.asked) == 2 * (4 + 4)


def test_each_pair_is_asked_in_both_orders_with_the_same_support(source, tmp_path):
    judge = Bright()
    judge_users(judge, source, tmp_path / "out", PANEL)
    for straight, turned in list(pairwise(judge.asked))[::2]:
        assert (straight.first, straight.second) == (turned.second, turned.first)
        assert [one.preferred for one in straight.support] == [one.preferred for one in turned.support]
        assert straight.caption not in [example.shown.caption for example in straight.support]


def test_a_judge_that_goes_by_the_place_has_only_ties(source, models, tmp_path):
    found = judge_users(Bright({"ann": 1, "bob": None}), source, tmp_path / "out", PANEL, models)["compared"]
    assert (found["ties"], found["win_rate"], found["first"], found["unparsed"]) == (4, 0.5, 1.0, 4)
    assert found["per_user"]["ann"]["inconsistent"] == 1.0
    assert found["per_user"]["bob"]["inconsistent"] == 0.0


def test_where_supporting_pictures_stand_is_drawn_for_each_pair_and_recorded(source, tmp_path):
    panel, judge = Panel(shots=3, labeled=1), Bright()
    judge_users(judge, source, tmp_path / "out", panel)
    of_query = {record["user"]: record["support"] for record in lines(tmp_path / "out")}
    for question in judge.asked:
        told = [(int(one.shown.caption), one.preferred) for one in question.support]
        assert told == [(one["pair"], one["preferred"]) for one in of_query[question.user]]
    places = {one["preferred"] for support in of_query.values() for one in support}
    assert places == {1, 2}


def test_an_unreadable_picture_takes_its_pair_out(source, models, tmp_path):
    torn = drawn(tmp_path / "torn", {"ann": ["black", None], "bob": ["black", "black"]})
    judge = Bright()
    found = judge_users(judge, source, tmp_path / "out", Panel(shots=1, labeled=0), (models[0], torn))
    assert found["known"] is None
    assert (found["compared"]["unreadable"], found["compared"]["pairs"], len(judge.asked)) == (1, 3, 6)
    assert [record["outcome"] for record in lines(tmp_path / "out")] == [1.0, None, 1.0, 1.0]


def test_what_was_answered_is_not_asked_again(source, tmp_path, monkeypatch):
    """The judge is gone at its second batch, in which one question had its answer."""
    stopping, whole, judge = Bright(), Bright.__call__, Bright()

    def stops(self, questions, seeds):
        if self.asked:
            raise Interrupted("gone; run it again", {1: Verdict(2)})
        return whole(self, questions, seeds)

    monkeypatch.setattr(Bright, "__call__", stops)
    with pytest.raises(Interrupted, match="gone"):
        judge_users(stopping, source, tmp_path / "out", PANEL, batch_size=3)
    monkeypatch.setattr(Bright, "__call__", whole)
    found = judge_users(judge, source, tmp_path / "out", PANEL, batch_size=3)
    assert (len(stopping.asked), len(judge.asked)) == (3, 8 - 3 - 1)
    assert judge_users(judge, source, tmp_path / "out", PANEL, batch_size=3) == found
    assert len(judge.asked) == 4


def test_nothing_to_judge_and_a_folder_of_other_verdicts_are_told(source, tmp_path):
    with pytest.raises(Refusal, match="There is nothing to judge: labeled is 0 and no pictures are named"):
        judge_users(Bright(), source, tmp_path / "none", Panel(shots=1, labeled=0))
    judge_users(Bright(), source, tmp_path / "out", PANEL)
    with pytest.raises(Refusal, match="holds results of something else: .*panel was"):
        judge_users(Bright(), source, tmp_path / "out", Panel(shots=1))
