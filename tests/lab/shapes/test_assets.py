import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline

from diffpo.data.files.pictures import read_image
from diffpo.data.layouts import PickAPic
from diffpo.data.pairs import PairTable
from diffpo.diffusion.model.sampling import generate_pictures
from diffpo.lab.shapes.captions import on_canvas, read_caption
from diffpo.lab.shapes.oracle import measure, utility
from diffpo.lab.shapes.preferences import split_scenes

ASSETS = Path("assets")


@pytest.fixture(scope="module")
def pairs():
    return PairTable(PickAPic("assets/tiny-pairs"), [], seed=0)


def prompts(part: str) -> list[str]:
    return [
        json.loads(line)["prompt"] for line in (ASSETS / "tiny-prompts" / f"{part}.jsonl").read_text().splitlines()
    ]


def scene(caption: str) -> tuple:
    asked = read_caption(caption)
    return asked.color, asked.shape, asked.background, asked.position


@pytest.mark.parametrize("folder", ["tiny-sd", "tiny-pairs"])
def test_a_folder_stays_below_twelve_megabytes(folder):
    assert sum(file.stat().st_size for file in (ASSETS / folder).rglob("*") if file.is_file()) < 12e6


def test_the_pipeline_loads_plainly_and_draws_what_is_asked():
    pipe = StableDiffusionPipeline.from_pretrained("assets/tiny-sd")
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    asked = prompts("evaluation")[:12]
    made = generate_pictures(pipe, asked, range(12), steps=20, guidance=2.5)
    assert (
        np.mean([measure(image).right(read_caption(prompt)) for image, prompt in zip(made, asked, strict=True)]) > 0.85
    )


def test_pairs_are_many_and_some_are_ties(pairs):
    ties = sum(pairs[i].prob == 0.5 for i in range(len(pairs)))
    assert len(pairs) >= 2000
    assert 0.02 < ties / len(pairs) < 0.3


def test_labels_follow_the_hidden_utility_but_not_always(pairs):
    """Rao and Kupper's draws at temperature 0.1 agree with the utility in about three of four decided pairs."""
    agree = []
    for i in range(200):
        row = pairs[i]
        if row.prob == 1:
            asked = read_caption(row.prompts[0])
            chosen, rejected = (utility(measure(read_image(cell.read())), asked) for cell in row.candidates)
            agree.append(chosen > rejected)
    assert 0.65 < np.mean(agree) < 0.9


def test_no_scene_of_a_prompt_set_is_in_the_pairs_or_in_the_other_set(pairs):
    parts = [{scene(prompt) for prompt in prompts(part)} for part in ("development", "evaluation")]
    trained = {scene(row["caption"]) for row in pairs.light}
    assert not parts[0] & parts[1]
    assert not trained & (parts[0] | parts[1])
    assert [len(part) for part in parts] == [64, 100]


def test_shipped_prompts_are_those_of_the_split():
    split = split_scenes(0)
    assert prompts("evaluation") == [on_canvas(asked) for asked in split.evaluation]
    assert [read_caption(prompt) for prompt in prompts("development")] == split.development


def test_evaluation_never_meets_a_seed_of_the_pairs(pairs):
    config = yaml.safe_load((ASSETS.parent / "configs" / "quickstart.yaml").read_text())
    first_seed = config["evaluation"]["init_args"]["sampling"]["first_seed"]
    assert max(max(pairs.light["seed_0"]), max(pairs.light["seed_1"])) < first_seed


def test_no_file_names_a_path_of_the_machine_it_was_built_on():
    assert not [file for file in ASSETS.rglob("*.json") if '": "/' in file.read_text()]
