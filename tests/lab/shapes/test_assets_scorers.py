"""The shipped judges of the tiny world, on prompts and pictures that they never saw."""

from pathlib import Path

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from tiny import saved

from diffpo.lab.shapes.captions import EVALUATION_FAMILY
from diffpo.lab.shapes.judges import agreement, faithfulness
from diffpo.lab.shapes.judging_pairs import against_vivid, imagined
from diffpo.lab.shapes.preferences import split_scenes
from diffpo.lab.shapes.scenes import random_scene, render
from diffpo.lab.worlds import scorers as build_scorers
from diffpo.scorers.clip_score import CLIPScore
from diffpo.scorers.pickscore import PickScore

ASSETS = Path("assets")
FOLDERS = ("tiny-clip", "tiny-pickscore")


@pytest.fixture(scope="module")
def rendered():
    pipeline = StableDiffusionPipeline.from_pretrained("assets/tiny-sd")
    scenes = split_scenes().evaluation
    known = imagined(pipeline, scenes, 60, (EVALUATION_FAMILY,), seed=7)
    return known, against_vivid(pipeline, known, seed=7)


def test_both_together_stay_below_ten_megabytes():
    assert sum(file.stat().st_size for name in FOLDERS for file in (ASSETS / name).iterdir()) < 10e6


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_card_tells_what_it_is_and_how_good(folder):
    card = (ASSETS / folder / "README.md").read_text()
    assert card.startswith(f"# {folder}")
    assert "%" in card


def test_the_pickscore_agrees_with_the_hidden_utility(rendered):
    scorer = PickScore("assets/tiny-pickscore", device="cpu")
    assert [agreement(scorer, part).scorer > 0.75 for part in rendered] == [True, True]


def test_the_clip_prefers_the_right_caption():
    shown, rng = split_scenes().evaluation * 2, np.random.default_rng(7)
    pictures = [render(random_scene(scene, rng)) for scene in shown]
    told = faithfulness(CLIPScore("assets/tiny-clip", device="cpu"), shown, pictures, EVALUATION_FAMILY)
    assert told["all"] > 0.9
    assert min(told.values()) > 0.7


def test_the_clip_has_no_taste_of_its_own(rendered):
    """What the PickScore adds is the labels, not the architecture."""
    known = rendered[1]
    bare, tuned = (agreement(PickScore(f"assets/{name}", device="cpu"), known).scorer for name in FOLDERS)
    assert tuned > bare + 0.1


# An untrained pipeline draws nothing that the oracle can tell apart.
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered")
def test_the_script_leaves_two_folders_and_their_cards(tmp_path, capsys, monkeypatch):
    for name in ("HABITS", "QUICKSTART"):
        monkeypatch.setattr(build_scorers, name, {"steps": (1,), "guidance": (1.0,)})
    saved(tmp_path / "base")
    build_scorers.main(tmp_path, str(tmp_path / "base"), 1, 1, 1, 2, test_pairs=6, test_pictures=20)
    told = capsys.readouterr().out
    for name, row in (("tiny-clip", "| shape |"), ("tiny-pickscore", "| rendered pictures,")):
        card = (tmp_path / name / "README.md").read_text()
        assert row in card
        assert card in told
