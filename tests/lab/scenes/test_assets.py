import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from diffusers import StableDiffusionPipeline

from diffpo.lab.scenes.captions import EVALUATION_FAMILY, read_caption
from diffpo.lab.scenes.preferences import ask_scenes
from diffpo.lab.scenes.reading import draw_asked, read_facts

ASSETS = Path("assets")


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    return Dataset.from_parquet(str(ASSETS / "scenes-pairs" / "train.parquet"))


def test_the_world_is_small():
    files = [file for folder in ASSETS.glob("scenes-*") for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 40e6


def test_pairs_are_of_training_scenes_and_all_their_labels_agree(pairs):
    assert len(pairs) == 4000
    for row in pairs.select(range(0, 4000, 40)).select_columns(["caption", "votes", "soft", "label_0", "single"]):
        assert read_caption(row["caption"]).part == "training"
        assert row["soft"] == pytest.approx(sum(row["votes"]) / 5)
        assert row["label_0"] == (0.5 if row["soft"] == 0.5 else float(row["soft"] > 0.5))
        assert row["single"] == row["votes"][0]
    assert len(set(pairs["seed_0"]) | set(pairs["seed_1"])) == 8000


def test_prompts_are_of_other_scenes(pairs):
    for part in ("development", "evaluation"):
        lines = (ASSETS / "scenes-prompts" / f"{part}.jsonl").read_text().splitlines()
        assert {read_caption(json.loads(line)["prompt"]).part for line in lines} == {part}


def test_the_base_draws_cleanly_and_misreads_by_plain_diffusers():
    pipe = StableDiffusionPipeline.from_pretrained(ASSETS / "scenes-sd", dtype=torch.float32)
    asked = ask_scenes("evaluation", 24)
    reading = read_facts(draw_asked(pipe, asked, (EVALUATION_FAMILY,), steps=15), asked)
    assert reading.facts["background"] > 0.9
    assert 0.6 < reading.right < 0.97
    assert 0.2 < reading.whole < 0.8
