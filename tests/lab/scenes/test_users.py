from itertools import product

import numpy as np
import pytest
from datasets import Dataset

from diffpo.lab.scenes.people import SceneTaste
from diffpo.lab.scenes.scenes import Thing, render
from diffpo.lab.scenes.users import HELD_OUT, SEEN, ask_users, invite_users
from diffpo.lab.shapes.preferences import jpeg

CAPTION = "a red circle and a blue square, gray background"


def picture(vividness: float) -> bytes:
    things = [Thing("red", "circle", 0.3, 0.5, 0.16, vividness), Thing("blue", "square", 0.7, 0.5, 0.16, vividness)]
    return jpeg(render(things, "gray"))


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    row = {"caption": CAPTION, "jpg_0": picture(1.0), "jpg_1": picture(0.55), "has_label": True}
    return Dataset.from_list([row | {"label_0": 1.0, "seed_0": 2 * i, "seed_1": 2 * i + 1} for i in range(60)])


def test_each_seen_user_has_an_opposite_and_no_held_out_taste_is_seen():
    assert len(SEEN) + len(HELD_OUT) == 12
    assert all(tuple(-weight for weight in weights) in SEEN for weights in SEEN)
    for one, other in product(SEEN, HELD_OUT):
        assert np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other) < 0.99


def test_opposed_users_judge_the_same_pictures_oppositely(pairs):
    seen, _ = invite_users()
    judged = ask_users(pairs, seen, viewers=len(seen))
    mean = {name: np.mean([row["label_0"] for row in judged if row["user_id"] == name]) for name in seen}
    assert mean["seen-00"] > 0.85
    assert mean["seen-01"] < 0.15
    assert 0.3 < mean["seen-02"] < 0.7, "who likes space cares little for colour"


def test_a_row_for_each_viewer_and_the_pictures_stay(pairs):
    _, held_out = invite_users()
    judged = ask_users(pairs, held_out, viewers=2)
    assert len(judged) == 2 * len(pairs)
    assert judged[0]["pair_id"] == judged[1]["pair_id"] != judged[2]["pair_id"]
    assert judged[0]["user_id"] != judged[1]["user_id"]
    assert judged[0]["jpg_0"] == pairs[0]["jpg_0"]


def test_no_taste_makes_a_clean_picture_worse_than_none():
    for user in [*invite_users()[0].values(), *invite_users()[1].values()]:
        assert isinstance(user.taste, SceneTaste)
        assert sum(min(weight, 0) for weight in (user.taste.vivid, user.taste.spaced, user.taste.large)) > -1
