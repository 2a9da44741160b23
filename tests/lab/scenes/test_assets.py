import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline

from diffpo.lab.scenes.captions import EVALUATION_FAMILY, read_caption
from diffpo.lab.scenes.preferences import ask_scenes
from diffpo.lab.scenes.reading import draw_asked, read_facts

ASSETS = Path("assets")
WITHOUT_T5 = {"text_encoder_3": None, "tokenizer_3": None}


@pytest.fixture(scope="module", params=["scenes-pairs", "scenes-flow-pairs"])
def pairs(request) -> Dataset:
    return Dataset.from_parquet(str(ASSETS / request.param / "train.parquet"))


def test_the_world_is_small():
    files = [file for folder in ASSETS.glob("scenes-*") for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 40 * 2**20


def test_pairs_are_of_training_scenes_and_all_their_labels_agree(pairs):
    assert len(pairs) in (4000, 1500)
    some = pairs.select(range(0, len(pairs), 40))
    for row in some.select_columns(["caption", "votes", "soft", "label_0", "single"]):
        assert read_caption(row["caption"]).part == "training"
        assert row["soft"] == pytest.approx(sum(row["votes"]) / 5)
        assert row["label_0"] == (0.5 if row["soft"] == 0.5 else float(row["soft"] > 0.5))
        assert row["single"] == row["votes"][0]
    assert len(set(pairs["seed_0"]) | set(pairs["seed_1"])) == 2 * len(pairs)


def test_prompts_are_of_other_scenes(pairs):
    for part in ("development", "evaluation"):
        lines = (ASSETS / "scenes-prompts" / f"{part}.jsonl").read_text().splitlines()
        assert {read_caption(json.loads(line)["prompt"]).part for line in lines} == {part}


@pytest.mark.parametrize(
    ("kind", "folder", "absent"),
    [(StableDiffusionPipeline, "scenes-sd", {}), (StableDiffusion3Pipeline, "scenes-flow", WITHOUT_T5)],
)
def test_a_base_draws_cleanly_and_misreads_by_plain_diffusers(kind, folder, absent):
    pipe = kind.from_pretrained(ASSETS / folder, dtype=torch.float32, **absent)
    asked = ask_scenes("evaluation", 24)
    reading = read_facts(draw_asked(pipe, asked, (EVALUATION_FAMILY,), steps=15), asked)
    assert reading.facts["background"] > 0.9
    assert 0.6 < reading.right < 0.97
    assert 0.2 < reading.whole < 0.8
