from dataclasses import replace

import pytest
from tiny_judges import question

from diffpo.core.refusal import Refusal
from diffpo.lab.shapes.scenes import Attributes, Scene, render
from diffpo.lab.users.judge import UserOracle
from diffpo.lab.users.tastes import Population, Taste

RED_CIRCLE = Attributes(shape="circle", color="red", background="white", position="center")
SMALL, LARGE = (render(Scene(RED_CIRCLE, (0.5, 0.5), extent, vividness=0.9)) for extent in (0.16, 0.26))


@pytest.fixture
def oracle(tmp_path):
    tastes = {"ann": Taste(size=1.0)}, {"bob": Taste(size=-1.0)}
    Population(*tastes).write(tmp_path / "users.json")
    return UserOracle(str(tmp_path / "users.json"))


def test_each_user_chooses_by_taste_in_both_orders(oracle):
    asked = replace(question(), first=SMALL, second=LARGE)
    turned = replace(asked, first=LARGE, second=SMALL)
    others = [replace(one, user="bob") for one in (asked, turned)]
    verdicts = oracle([asked, turned, *others], [0] * 4)
    assert [verdict.choice for verdict in verdicts] == [2, 1, 1, 2]


def test_equal_pictures_get_no_verdict(oracle):
    assert oracle([replace(question(), first=SMALL, second=SMALL)], [0])[0].choice is None


def test_strangers_and_missing_tastes_are_told(oracle, tmp_path):
    with pytest.raises(Refusal, match="has no user 'zoe'; name the file of the pairs' users"):
        oracle([replace(question(), user="zoe")], [0])
    with pytest.raises(Refusal, match="Cannot load tastes of users from '.*nowhere'"):
        _ = UserOracle(str(tmp_path / "nowhere")).users


def test_verdicts_depend_on_the_tastes(oracle, tmp_path):
    Population({"ann": Taste(top=1.0)}, {}).write(tmp_path / "others.json")
    assert UserOracle(str(tmp_path / "others.json")).identity != oracle.identity
