import numpy as np
import pytest
from PIL import Image

from diffpo.core.refusal import Refusal
from diffpo.lab.shapes.captions import plain, read_caption
from diffpo.lab.shapes.oracle import measure, style, utility
from diffpo.lab.shapes.scenes import random_attributes, random_scene, render
from diffpo.lab.shapes.scorer import Oracle

RNG = np.random.default_rng(3)
SCENES = [random_scene(random_attributes(RNG), RNG) for _ in range(5)]
PICTURES = [render(scene) for scene in SCENES]
PROMPTS = [plain(scene.attributes) for scene in SCENES]


def test_it_says_the_utility_of_each_picture():
    expected = [utility(measure(p), read_caption(prompt)) for prompt, p in zip(PROMPTS, PICTURES, strict=True)]
    assert Oracle()(PROMPTS, PICTURES).tolist() == expected


def test_a_clean_picture_is_worth_its_attributes_and_its_style():
    aspects = Oracle().aspects(PROMPTS, PICTURES)
    assert aspects["clean"].tolist() == [1.0] * 5
    assert (aspects["attributes"] + aspects["style"]).tolist() == Oracle()(PROMPTS, PICTURES).tolist()
    assert aspects["style"].tolist() == [
        style(measure(p), read_caption(q)) for q, p in zip(PROMPTS, PICTURES, strict=True)
    ]


def test_a_picture_without_an_object_is_worth_nothing():
    plain_grey = [Image.new("RGB", (32, 32), "gray")]
    assert Oracle()(PROMPTS[:1], plain_grey).tolist() == [-1.0]
    assert {name: x.tolist() for name, x in Oracle().aspects(PROMPTS[:1], plain_grey).items()} == {
        "attributes": [0.0],
        "style": [0.0],
        "clean": [0.0],
    }


def test_other_prompts_are_refused_before_anything_is_drawn():
    with pytest.raises(Refusal, match="'a dog' is not a caption of the tiny world"):
        Oracle().check([*PROMPTS, "a dog"])


def test_there_is_one_prompt_for_each_picture():
    with pytest.raises(Refusal, match="5 prompts and 1 candidates"):
        Oracle()(PROMPTS, PICTURES[:1])
