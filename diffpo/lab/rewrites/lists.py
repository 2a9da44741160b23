"""Ranked lists of the tiny language world: several of the model's own rewrites of a prompt, with noisy scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from diffpo.lab.rewrites.oracle import read_rewrite, utility
from diffpo.lab.rewrites.preferences import TEMPERATURE
from diffpo.lab.rewrites.requests import TRAINING_REQUESTS, prompt
from diffpo.lab.rewrites.writing import Writing, write
from diffpo.lab.shapes.captions import read_caption
from diffpo.lab.shapes.scenes import Attributes

LOW, HIGH = -1.0, 2.0  # of the utility; whoever scores knows no more than that range
STEPS = ", | with "  # what ends the parts of a caption, for `diffpo.text.SplitSteps`


def sample_lists(
    model: Any, tokenizer: Any, asked: Sequence[Attributes], lists: int = 1500, size: int = 4, seed: int = 0
) -> Dataset:
    """One record per prompt, with the columns of `diffpo.text.Lists`; lists that repeat an answer are left out.

    A score is the utility plus Gumbel noise, as that of `sample_pairs`, kept within the range of the utility.

    Args:
        asked: what the prompts are about.
        lists: prompts that are answered.
        size: answers to each.
    """
    rng = np.random.default_rng(seed)
    picks = rng.integers((len(asked), len(TRAINING_REQUESTS)), size=(lists, 2))
    prompts = [prompt(asked[i], TRAINING_REQUESTS[j]) for i, j in picks]
    answers = write(model, tokenizer, prompts, Writing(rewrites=size, seed=seed), "lists")
    records = [
        {"prompt": text, "responses": some, "scores": scored(text, some, rng)}
        for text, some in zip(prompts, answers, strict=True)
    ]
    return Dataset.from_list([record for record in records if len(set(record["responses"])) == size])


def scored(text: str, answers: Sequence[str], rng: np.random.Generator) -> list[float]:
    asked = read_caption(text)
    ratings = [utility(asked, read_rewrite(answer)) + TEMPERATURE * rng.gumbel() for answer in answers]
    return [float(np.clip(rating, LOW, HIGH)) for rating in ratings]
