import numpy as np
import pytest

from diffpo.lab.shapes.captions import plain, read_caption
from diffpo.lab.shapes.scenes import Attributes, Scene, render
from diffpo.lab.users.comparison import compare_rows, judge_pictures, measure_file, utilities
from diffpo.lab.users.tastes import Taste

PEOPLE = {"ann": Taste(size=1.0), "bob": Taste(size=-1.0)}
ASKED = [plain(Attributes("red", "circle"))]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same scene small and large, and a blue one, which was not asked for."""
    folder, shown = tmp_path_factory.mktemp("drawn"), {}
    for name, color, extent in (("small", "red", 0.16), ("large", "red", 0.26), ("wrong", "blue", 0.26)):
        shown[name] = folder / f"{name}.png"
        render(Scene(Attributes(color, "circle", "white"), (0.5, 0.5), extent, 0.9)).save(shown[name])
    return shown


def told(rows: dict) -> dict:
    return compare_rows(rows, judge_pictures(rows, PEOPLE, ASKED), PEOPLE, ASKED)


def test_what_one_user_likes_its_opposite_does_not(files):
    rows = {"base": dict.fromkeys(PEOPLE, [files["small"]]), "tuned": dict.fromkeys(PEOPLE, [files["large"]])}
    found = told(rows)
    tuned, base = found["models"]["tuned"], found["models"]["base"]
    assert {user: entry["win_rate"] for user, entry in tuned["users"].items()} == {"ann": 1.0, "bob": 0.0}
    assert found["pairs"] == [
        {"a": "tuned", "b": "base", "metric": "taste", "win_rate": 0.5, "win_rate_low": 0.0, "win_rate_high": 1.0}
    ]
    assert tuned["scores"]["taste"]["mean"] == base["scores"]["taste"]["mean"] == pytest.approx(1)


def test_pictures_of_ones_own_beat_those_of_everybody(files):
    own = {"ann": [files["large"]], "bob": [files["small"]]}
    found = told({"base": dict.fromkeys(PEOPLE, [files["large"]]), "own": own})
    assert found["pairs"][0]["win_rate"] == 0.75  # a tie for ann
    assert [entry["win_rate"] for entry in found["models"]["own"]["users"].values()] == [0.5, 1.0]


def test_attributes_are_counted_apart_from_taste(files):
    found = told({"base": dict.fromkeys(PEOPLE, [files["wrong"]])})["models"]["base"]
    assert (found["attributes"], found["clean"]) == (0.5, 1.0)
    assert found["users"]["ann"]["attributes"] == 0.5


def test_pictures_of_a_prompt_follow_one_another(files):
    shown = [files[name] for name in ("small", "large", "small", "small")]
    found = utilities(shown, PEOPLE["ann"], ASKED * 2)
    request = read_caption(ASKED[0])
    small, large = (PEOPLE["ann"].utility(measure_file(files[name]), request) for name in ("small", "large"))
    np.testing.assert_array_equal(found, [[small, large], [small, small]])
