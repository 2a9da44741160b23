"""The tiny language world's preferences: prompts in three parts, pairs of the model's own rewrites."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from diffpo.lab.rewrites.oracle import read_rewrite, utility
from diffpo.lab.rewrites.requests import EVALUATION_REQUEST, TRAINING_REQUESTS, RequestSplit, prompt
from diffpo.lab.rewrites.writing import Writing, write
from diffpo.lab.shapes.captions import read_caption
from diffpo.lab.shapes.scenes import Attributes

TEMPERATURE, TIE = 0.2, 0.2


def write_prompts(split: RequestSplit, folder: Path, seed: int = 0) -> None:
    """`development.jsonl` in the families of the training prompts, `evaluation.jsonl` in one that they never use."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    known = [prompt(asked, TRAINING_REQUESTS[rng.integers(len(TRAINING_REQUESTS))]) for asked in split.development]
    parts = {"development": known, "evaluation": [prompt(asked, EVALUATION_REQUEST) for asked in split.evaluation]}
    for name, prompts in parts.items():
        lines = [json.dumps({"prompt": prompt}) for prompt in prompts]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def sample_pairs(model: Any, tokenizer: Any, asked: list[Attributes], pairs: int = 3000, seed: int = 0) -> Dataset:
    """Two different samples for each prompt, and a noisy verdict of the hidden utility (`judge_pair`).

    Args:
        asked: what the prompts are about.
        pairs: prompts that are answered twice; where both answers are the same, there is no pair.
    """
    rng = np.random.default_rng(seed)
    picks = rng.integers((len(asked), len(TRAINING_REQUESTS)), size=(pairs, 2))
    prompts = [prompt(asked[i], TRAINING_REQUESTS[j]) for i, j in picks]
    answers = write(model, tokenizer, prompts, Writing(rewrites=2, seed=seed), "pairs")
    both = zip(prompts, answers, strict=True)
    return Dataset.from_list([judge_pair(text, pair, rng) for text, pair in both if pair[0] != pair[1]])


def judge_pair(prompt: str, pair: Sequence[str], rng: np.random.Generator) -> dict[str, Any]:
    """One row: the side with the higher rating is chosen.

    A rating is the utility plus Gumbel noise, so that verdicts are Bradley-Terry draws; ratings that differ by less
    than a threshold tie, which is Rao and Kupper's model (JASA 1967; `diffpo.lab.shapes.oracle.noisy_label`).
    `score_chosen` and `score_rejected` are these noisy ratings: what the person said, not what the oracle knows.
    """
    asked = read_caption(prompt)
    ratings = [utility(asked, read_rewrite(text)) + TEMPERATURE * rng.gumbel() for text in pair]
    (high, chosen), (low, rejected) = sorted(zip(ratings, pair, strict=True), reverse=True)
    return {
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "prob": 1.0 if high - low > TIE * TEMPERATURE else 0.5,
        "score_chosen": high,
        "score_rejected": low,
    }
