import json
from pathlib import Path

import pytest
import torch
from golden.pickscore import make
from golden.pickscore.files import VIT_H_14, write_model, write_processor
from golden.published import recorded

from diffpo.scorers.pickscore import PickScore

GOLDEN = json.loads(Path(make.__file__).with_name("golden.json").read_text())
PROMPTS = [prompt for prompt, *_ in make.CASES]


@pytest.fixture
def folders(tmp_path):
    """Of the model and of its processor, as published: apart."""
    model, processor = tmp_path / "model", tmp_path / "processor"
    model.mkdir()
    processor.mkdir()
    write_model(model, GOLDEN["shapes"])
    write_processor(processor, VIT_H_14)
    return {"path": str(model), "processor": str(processor), "device": "cpu"}


def test_scores_are_those_of_the_original(folders):
    scores = PickScore(**folders)(PROMPTS, make.pictures())
    torch.testing.assert_close(scores, torch.tensor(GOLDEN["scores"]), atol=1e-5, rtol=0)


def test_raw_scores_are_the_cosines_of_the_original(folders):
    cosines = PickScore(**folders, raw=True)(PROMPTS, make.pictures())
    torch.testing.assert_close(cosines, torch.tensor(GOLDEN["cosines"]), atol=1e-5, rtol=0)


def test_the_processor_of_the_published_weights_is_the_one_its_authors_name():
    assert PickScore().prepared_by == "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    assert PickScore("my/own").prepared_by == "my/own"
    assert PickScore(processor="another/one").prepared_by == "another/one"


def test_the_scale_is_in_the_identity():
    assert PickScore(raw=True).identity == {
        "scorer": "pickscore",
        "model_id": "yuvalkirstain/PickScore_v1",
        "version": "cosine; float32",
        "raw": True,
    }
    assert PickScore(dtype="float16", revision="abc").identity == {
        "scorer": "pickscore",
        "model_id": "yuvalkirstain/PickScore_v1@abc",
        "version": "exp(logit_scale) * cosine; float16",
        "raw": False,
    }


@pytest.mark.weights
def test_published_weights_give_the_recorded_scores():
    scorer = PickScore(device="cpu")
    scores = scorer(PROMPTS, make.pictures()).tolist()
    recorded("pickscore", {str(number): score for number, score in enumerate(scores)} | {"scale": scorer.scale()})


def test_prompts_that_are_cut_are_counted_and_score_alike(folders):
    scorer = PickScore(**folders)
    prompts = ["a " * n for n in (scorer.words - 2, scorer.words - 1, 3 * scorer.words)]
    lengths = [len(ids) for ids in scorer.tokenizer(prompts).input_ids]
    assert scorer.count_cut(prompts) == sum(length > scorer.words for length in lengths) == 2
    one, *cut = scorer(prompts, [make.pictures()[0]] * 3)
    assert all(score == one for score in cut)
