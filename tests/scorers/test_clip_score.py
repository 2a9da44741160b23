import json
from pathlib import Path

import pytest
import torch
from golden.clip_score import make
from golden.pickscore.files import VIT_L_14, write_model, write_processor
from golden.published import recorded

from diffpo.scorers.clip_score import CLIPScore

GOLDEN = json.loads(Path(make.__file__).with_name("golden.json").read_text())
PROMPTS = [prompt for prompt, *_ in make.CASES]


@pytest.fixture
def model(tmp_path):
    write_model(tmp_path, GOLDEN["shapes"], make.ACT)
    write_processor(tmp_path, VIT_L_14)
    return tmp_path


def test_scores_are_those_of_torchmetrics_before_it_clips_them(model):
    scores = CLIPScore(str(model), device="cpu")(PROMPTS, make.pictures())
    torch.testing.assert_close(scores, torch.tensor(GOLDEN["scores"]), atol=1e-5 * 100, rtol=0)


def test_below_zero_is_where_torchmetrics_clips():
    assert [score < 0 for score in GOLDEN["scores"][:-1]] == GOLDEN["clipped"]


def test_identity_says_model_and_formula():
    assert CLIPScore().identity == {
        "scorer": "clip_score",
        "model_id": "openai/clip-vit-large-patch14",
        "version": "100 * cosine, not clipped at 0; float32",
        "raw": False,
    }


@pytest.mark.weights
def test_published_weights_give_the_recorded_scores():
    scores = CLIPScore(device="cpu")(PROMPTS, make.pictures()).tolist()
    recorded("clip_score", {str(number): score for number, score in enumerate(scores)})
