"""The scenes' preferences: prompts in three parts without a common scene, pairs of a base's samples, votes on them."""

import json
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value
from PIL import Image
from tqdm import tqdm

from diffpo.lab.scenes.captions import EVALUATION_FAMILY, TRAINING_FAMILIES
from diffpo.lab.scenes.oracle import measure
from diffpo.lab.scenes.people import Rater, gather_raters, hold_vote
from diffpo.lab.scenes.reading import GUIDANCE, STEPS, draw_prompts
from diffpo.lab.scenes.scenes import Facts, random_facts
from diffpo.lab.shapes.preferences import jpeg

CHUNK = 32
LAYOUT = Features(
    {
        "caption": Value("string"),
        "jpg_0": Value("binary"),
        "jpg_1": Value("binary"),
        "label_0": Value("float64"),
        "single": Value("float64"),
        "soft": Value("float64"),
        "votes": List(Value("float64")),
        "voters": List(Value("int64")),
        "chance": Value("float64"),
        "has_label": Value("bool"),
        "seed_0": Value("int64"),
        "seed_1": Value("int64"),
    }
)


def ask_scenes(part: str, number: int, seed: int = 0) -> list[Facts]:
    """Different scenes of one part of the world."""
    rng, found = np.random.default_rng(seed), {}
    while len(found) < number:
        facts = random_facts(rng, part)
        found.setdefault(EVALUATION_FAMILY(facts), facts)
    return [*found.values()]


def write_prompts(folder: Path, development: int = 100, evaluation: int = 200, seed: int = 0) -> None:
    """`development.jsonl` in the families of the training captions, `evaluation.jsonl` in one that they never use."""
    folder.mkdir(parents=True, exist_ok=True)
    known = [
        TRAINING_FAMILIES[i % len(TRAINING_FAMILIES)](facts)
        for i, facts in enumerate(ask_scenes("development", development, seed))
    ]
    unseen = [EVALUATION_FAMILY(facts) for facts in ask_scenes("evaluation", evaluation, seed)]
    for name, prompts in {"development": known, "evaluation": unseen}.items():
        lines = [json.dumps({"prompt": prompt}) for prompt in prompts]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def sample_pairs(
    pipe: Any, numbers: Sequence[int], steps: int = STEPS, guidance: float = GUIDANCE, seed: int = 0
) -> Dataset:
    """Two samples for each prompt in the layout of Pick-a-Pic, and five people's votes on them.

    `label_0` is the majority, `single` the first voter's word, `soft` the share of votes; `chance` is the true
    probability, which no training reads.

    Args:
        numbers: of the pairs: each depends on `seed` and its number alone, whatever is drawn beside it.
    """
    raters = gather_raters()

    def rows() -> Iterator[dict]:
        for begin in tqdm(range(0, len(numbers), CHUNK), desc="pairs"):
            some = numbers[begin : begin + CHUNK]
            draws = [np.random.default_rng([seed, number]) for number in some]
            asked = [random_facts(rng, "training") for rng in draws]
            captions = [
                TRAINING_FAMILIES[rng.integers(len(TRAINING_FAMILIES))](facts)
                for facts, rng in zip(asked, draws, strict=True)
            ]
            seeds = [2 * number + side for number in some for side in range(2)]
            made = iter(
                draw_prompts(pipe, [caption for caption in captions for _ in range(2)], seeds, steps, guidance)
            )
            for number, caption, facts, rng in zip(some, captions, asked, draws, strict=True):
                yield vote_on(caption, (next(made), next(made)), facts, 2 * number, raters, rng)

    return Dataset.from_list(list(rows()), features=LAYOUT)


def vote_on(
    caption: str,
    pair: tuple[Image.Image, Image.Image],
    asked: Facts,
    seed: int,
    raters: list[Rater],
    rng: np.random.Generator,
) -> dict:
    """A row of the pairs: people see the pictures as they are stored."""
    stored = jpeg(pair[0]), jpeg(pair[1])
    first, second = (measure(Image.open(BytesIO(picture))) for picture in stored)
    ballot = hold_vote(raters, (first, second), asked, rng)
    return {
        "caption": caption,
        "jpg_0": stored[0],
        "jpg_1": stored[1],
        "label_0": ballot.majority,
        "single": ballot.votes[0],
        "soft": ballot.soft,
        "votes": ballot.votes,
        "voters": ballot.voters,
        "chance": ballot.chance,
        "has_label": True,
        "seed_0": seed,
        "seed_1": seed + 1,
    }
