from dataclasses import replace

import numpy as np
import pytest
from damage import DAMAGES

from diffpo.core.refusal import Refusal
from diffpo.diffusion.evaluation.scores import Judges, ModelPictures
from diffpo.lab.shapes.captions import read_caption
from diffpo.lab.shapes.scenes import random_scene, render
from diffpo.lab.shapes.scorer import Oracle


def test_scorers_of_one_name_are_refused():
    with pytest.raises(Refusal, match="Two scorers are called 'oracle'.*their numbers do not compare"):
        Judges([Oracle(), Oracle()])


def finished(folder, broken: int = 0) -> ModelPictures:
    """Two prompts with two pictures each, the first `broken` of which cannot be read."""
    folder.mkdir()
    files = [folder / f"{n:05d}.png" for n in range(4)]
    for n, file in enumerate(files):
        render(random_scene(read_caption(TWO[n // 2]), np.random.default_rng(n))).save(file)
        if n < broken:
            file.write_bytes(b"no picture")
    return ModelPictures(files, folder, {})


TWO = ["a red circle on the left, white background", "a blue square on the right, black background"]


def test_an_unreadable_picture_is_marked_and_the_rest_goes_on(tmp_path):
    numbers = Judges([Oracle()]).numbers(finished(tmp_path / "a", broken=1), TWO, "a")
    assert np.isnan(numbers["oracle"]).tolist() == [[True, False], [False, False]]
    assert numbers["attributes"][1].tolist() == [1.0, 1.0]


def test_what_was_scored_is_not_scored_again(tmp_path, monkeypatch):
    pictures, calls = finished(tmp_path / "a"), []
    monkeypatch.setattr(Oracle, "__call__", counted(Oracle.__call__, calls))
    first = Judges([Oracle()]).numbers(pictures, TWO, "a")
    again = Judges([Oracle()]).numbers(pictures, TWO, "a")
    assert calls == [4]
    np.testing.assert_array_equal(first["oracle"], again["oracle"])


def counted(call, calls: list[int]):
    def wrapped(self, prompts, candidates):
        calls.append(len(prompts))
        return call(self, prompts, candidates)

    return wrapped


def test_scores_of_other_pictures_are_not_mixed_in(tmp_path):
    pictures = finished(tmp_path / "a")
    Judges([Oracle()]).numbers(pictures, TWO, "a")
    with pytest.raises(Refusal, match="results of something else: pictures was {} and is {'model': 'b'}"):
        Judges([Oracle()]).numbers(replace(pictures, identity={"model": "b"}), TWO, "a")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_picture_that_was_exchanged_after_scoring_is_scored_anew(tmp_path, monkeypatch, damage, caplog):
    pictures, calls = finished(tmp_path / "a"), []
    first = Judges([Oracle()]).numbers(pictures, TWO, "a")
    DAMAGES[damage](pictures.files[1], 3)
    monkeypatch.setattr(Oracle, "__call__", counted(Oracle.__call__, calls))
    again = Judges([Oracle()]).numbers(replace(pictures), TWO, "a")
    assert "1 pictures of a: oracle are others than were scored; they are scored anew" in caplog.text
    fresh = finished(tmp_path / "b")
    DAMAGES[damage](fresh.files[1], 3)
    np.testing.assert_array_equal(again["oracle"], Judges([Oracle()]).numbers(fresh, TWO, "b")["oracle"])
    assert np.isnan(again["oracle"][0, 1]) or damage == "flipped"
    np.testing.assert_array_equal(again["oracle"].ravel()[[0, 2, 3]], first["oracle"].ravel()[[0, 2, 3]])
