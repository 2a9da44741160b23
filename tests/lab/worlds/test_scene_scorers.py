import numpy as np
import pytest
from PIL import Image

from diffpo.lab.scenes.bases import load_scene_base
from diffpo.lab.scenes.people import gather_raters
from diffpo.lab.worlds.scene_scorers import main, render_scenes, sample_scenes
from diffpo.scorers.pickscore import PickScore


def test_rendered_pairs_have_what_people_say_of_them():
    found = render_scenes(40, gather_raters(), 0)
    assert found.pixels.shape == (2, 40, 48, 48, 3)
    sure = np.abs(found.gap) > 0.3
    assert np.mean((found.prob > 0.5)[sure] == (found.gap > 0)[sure]) > 0.85
    assert len(set(found.prob)) > 3  # shares of votes, not only sides


def test_samples_depend_on_their_seeds_alone():
    pipe, raters = load_scene_base("assets/scenes-sd"), gather_raters()
    found = sample_scenes(pipe, 3, raters, "evaluation", 50, 2, 2.5)
    again = sample_scenes(pipe, 3, raters, "evaluation", 50, 2, 2.5)
    assert (found.pixels == again.pixels).all()
    assert (found.pixels[0] != found.pixels[1]).any()
    assert all(prompt.startswith("with ") or "background" not in prompt for prompt in found.prompts)


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    few = {"sampled_pairs": 2, "sampling_steps": 1, "rendered_pairs": 8, "test_pairs": 2, "test_scenes": 8}
    main(folder, clip_steps=2, pickscore_steps=2, **few)
    return folder


def test_both_judges_load_as_published_ones_do(judges):
    scorer = PickScore(str(judges / "scenes-pickscore"), device="cpu")
    assert scorer(["a red circle"], [Image.new("RGB", (48, 48))]).shape == (1,)


def test_cards_tell_what_was_measured(judges):
    assert "% of 8." in (judges / "scenes-clip" / "README.md").read_text()
    assert "| above 0.2 |" in (judges / "scenes-pickscore" / "README.md").read_text()
