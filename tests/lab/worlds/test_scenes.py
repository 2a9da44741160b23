import json
import shutil
from functools import cache, partial
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from diffpo.core.refusal import Refusal
from diffpo.lab.worlds import scenes
from diffpo.lab.worlds.scenes import main

SMALL = {"vae_steps": 1, "scenes": 8, "steps": 2, "every": 1, "pairs": 2}


@pytest.fixture(scope="module", autouse=True)
def _few():
    """Pictures are drawn, and bases trained, in fewer and smaller steps than a world's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "READ", 10)
        patch.setattr(scenes, "build_tokenizer", cache(scenes.build_tokenizer))
        patch.setattr(scenes, "draw_asked", partial(scenes.draw_asked, steps=2))
        patch.setattr(scenes, "sample_pairs", partial(scenes.sample_pairs, steps=2))
        patch.setattr(scenes, "train_denoiser", partial(scenes.train_denoiser, batch=4))
        yield


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> Path:
    """A working folder with what both bases begin with."""
    folder = tmp_path_factory.mktemp("encoded")
    main(folder / "assets", folder / "work", stages=("vae", "latents"), **SMALL)
    return folder / "work"


def test_each_stage_is_made_once_and_the_next_reads_it(tmp_path, encoded, capsys):
    out, work = tmp_path / "assets", shutil.copytree(encoded, tmp_path / "work")
    main(out, work, stages=("unet", "prompts", "pairs"), **SMALL)
    assert sorted(file.name for file in out.iterdir()) == ["scenes-pairs", "scenes-prompts", "scenes-sd"]
    readings = [json.loads(line) for line in (work / "unet.jsonl").read_text().splitlines()]
    assert [reading["step"] for reading in readings] == [1, 2]
    assert 0 <= readings[0]["clean"] <= 1
    assert Image.open(work / "unet-2.png").size == (480, 48)
    assert len(Dataset.from_parquet(str(out / "scenes-pairs" / "train.parquet"))) == 2
    made = (out / "scenes-sd" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert made == (work / "unet-2" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    capsys.readouterr()
    main(out, work, stages=("vae", "latents", "unet", "pairs"), **SMALL)
    assert capsys.readouterr().out.count("is there") == 4


def test_an_earlier_checkpoint_is_shipped_or_gone_on_from(tmp_path, encoded):
    out, work = tmp_path / "assets", shutil.copytree(encoded, tmp_path / "work")
    main(out, work, stages=("flow",), **SMALL | {"ships": 1})
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert (out / "scenes-flow" / weights).read_bytes() == (work / "flow-1" / weights).read_bytes()
    assert (work / "flow-1" / weights).read_bytes() != (work / "flow-2" / weights).read_bytes()
    main(tmp_path / "more", work, stages=("flow",), **SMALL | {"continues": "flow-2", "steps": 3})
    assert (tmp_path / "more" / "scenes-flow" / weights).read_bytes() == (work / "flow-3" / weights).read_bytes()


def test_a_stage_without_the_one_before_it_says_which(tmp_path):
    with pytest.raises(Refusal, match=r"needs .*latents.pt, which the stage latents makes"):
        main(tmp_path / "assets", tmp_path / "work", stages=("unet",), **SMALL)
