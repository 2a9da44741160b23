"""Networks that learn what people dislike, judged by what guidance away from them draws."""

import json

import numpy as np
import pytest
import tiny
from brightness import Brightness
from PIL import Image

from diffpo.diffusion.evaluation.compare import SideBySide
from diffpo.diffusion.evaluation.drawing import Sampling, draw_pictures
from diffpo.diffusion.evaluation.model import ComparedModel
from diffpo.diffusion.model.loading import StableDiffusion, load_pipeline, load_tuned
from diffpo.diffusion.model.lora import LoRA
from diffpo.evaluation.prompts import Prompts

SAMPLING = Sampling(steps=2, guidance=3.0)
PROMPTS = ["a red circle", "a blue cross"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    tiny.saved(root / "base")
    tiny.moved(tiny.unet()).save_pretrained(root / "run" / "unet")
    (root / "prompts.txt").write_text("\n".join(PROMPTS))
    return root


def evaluated(world, folder, **options) -> dict:
    base = StableDiffusion(str(world / "base"))
    pipelines = {"base": load_pipeline(base), "tuned": load_tuned(base, world / "run")}
    folder.mkdir()
    SideBySide(Prompts(str(world / "prompts.txt")), [Brightness()], SAMPLING, **options)(pipelines, folder, 0)
    return json.loads((folder / "report.json").read_text())


def test_what_is_judged_is_the_base_led_away_from_what_was_tuned(world, tmp_path):
    report = evaluated(world, tmp_path / "away", away=True)
    assert report["models"]["tuned"]["source"] == "base, led away from what was tuned"
    model = ComparedModel("negative", base=str(world / "base"), negative=str(world / "run"))
    expected = draw_pictures(model.load, PROMPTS, SAMPLING, tmp_path / "expected", {}, "negative")
    plain = evaluated(world, tmp_path / "plain")
    assert plain["models"]["tuned"]["source"] == "tuned"
    for file in expected:
        away, alone = (tmp_path / run / "evaluation" / "tuned" / file.name for run in ("away", "plain"))
        assert away.read_bytes() == file.read_bytes()
        assert away.read_bytes() != alone.read_bytes()
    drawn = [tmp_path / run / "evaluation" / "base" / expected[0].name for run in ("away", "plain")]
    assert drawn[0].read_bytes() == drawn[1].read_bytes()


def test_a_lora_is_led_away_from_as_well(world, tmp_path):
    base = StableDiffusion(str(world / "base"), adapter=LoRA(rank=2))
    trained = base.load(seed=1)
    tiny.moved(trained.unet)
    trained.save(tmp_path / "lora")
    pipelines = {"base": load_pipeline(base), "tuned": load_tuned(base, tmp_path / "lora")}
    (tmp_path / "out").mkdir()
    asked = Prompts(str(world / "prompts.txt"))
    SideBySide(asked, [Brightness()], SAMPLING, away=True)(pipelines, tmp_path / "out", 0)
    model = ComparedModel("negative", base=str(world / "base"), negative=str(tmp_path / "lora"))
    expected = draw_pictures(model.load, PROMPTS, SAMPLING, tmp_path / "expected", {}, "negative")
    for file in expected:
        away, base_file = (tmp_path / "out" / "evaluation" / name / file.name for name in ("tuned", "base"))
        drawn, wanted = (np.asarray(Image.open(one), dtype=int) for one in (away, file))
        np.testing.assert_allclose(drawn, wanted, atol=1)
        assert abs(drawn - np.asarray(Image.open(base_file), dtype=int)).max() > 1
