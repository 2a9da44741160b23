import json

import numpy as np
import pytest
import tiny

from diffpo.core.refusal import Refusal
from diffpo.diffusion.evaluation import guidance
from diffpo.diffusion.evaluation.drawing import Sampling
from diffpo.diffusion.evaluation.guidance import GuidanceSweep, mean_with_interval
from diffpo.diffusion.evaluation.model import ComparedModel
from diffpo.diffusion.evaluation.scores import Judges
from diffpo.evaluation.prompts import Prompts
from diffpo.lab.shapes.scenes import random_attributes, random_scene, render
from diffpo.lab.shapes.scorer import Oracle


@pytest.fixture
def development(tmp_path):
    (tmp_path / "development.jsonl").write_text(json.dumps({"prompt": "a red circle on the left"}))
    return Prompts(str(tmp_path / "development.jsonl"))


def test_each_model_gets_the_scale_at_which_its_mean_is_highest(development, tmp_path, monkeypatch):
    """A scale of 2 draws a clean object, all others noise."""
    rng = np.random.default_rng(0)
    scene = random_scene(random_attributes(rng), rng)

    def draw(load, prompts, sampling, folder, identity, title):
        folder.mkdir(parents=True)
        for n in range(sampling.pictures):
            clean = render(scene) if sampling.guidance == 2.0 else tiny.picture(seed=n)
            clean.save(folder / f"{n}.png")
        return sorted(folder.glob("*.png"))

    monkeypatch.setattr(guidance, "draw_pictures", draw)
    sweep = GuidanceSweep(development, scales=[1.0, 2.0, 4.0], pictures=2)
    judges, asked = Judges([Oracle()]), ["a red circle"]
    curves = sweep(ComparedModel("base", "nowhere"), lambda: None, asked, judges, Sampling(), tmp_path / "out")
    found = sweep.report({"base": curves}, asked, judges)
    assert (found["chosen"], found["metric"], found["n_prompts"], found["pictures"]) == ({"base": 2.0}, "oracle", 1, 2)
    points = found["curves"]["base"]["oracle"]
    assert [(point["scale"], point["mean"] > 0) for point in points] == [(1.0, False), (2.0, True), (4.0, False)]
    assert all(point["low"] <= point["mean"] <= point["high"] for point in points)


def test_the_scale_is_not_chosen_on_prompts_that_are_reported(development):
    with pytest.raises(Refusal, match="1 prompts of .* are among those of the comparison"):
        GuidanceSweep(development).asked(["a red circle on the left", "b"], Judges([Oracle()]))


def test_an_unknown_scorer_and_no_scales_are_refused(development):
    with pytest.raises(Refusal, match="sweep.by is 'hps', the scorers are oracle"):
        GuidanceSweep(development, by="hps").asked([], Judges([Oracle()]))
    with pytest.raises(Refusal, match="sweep.scales is empty"):
        GuidanceSweep(development, scales=[])


def test_unreadable_pictures_are_left_out_of_the_mean():
    scores = np.array([[1.0, np.nan], [3.0, 5.0], [np.nan, np.nan]])
    assert mean_with_interval(scores) == {"mean": 2.5, "low": 1.0, "high": 4.0}
