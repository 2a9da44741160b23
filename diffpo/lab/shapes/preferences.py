"""The tiny world's preferences: prompts in three parts that share no scene, pairs of the pipeline's own samples."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Value
from diffusers import StableDiffusionPipeline
from PIL import Image
from tqdm import tqdm

from diffpo.diffusion.model.sampling import generate_pictures
from diffpo.lab.shapes.captions import EVALUATION_FAMILY, TRAINING_FAMILIES
from diffpo.lab.shapes.oracle import measure, noisy_label, utility
from diffpo.lab.shapes.scenes import BACKGROUNDS, HUES, POSITIONS, SHAPES, SIZES, Attributes

CHUNK = 64
LAYOUT = Features(
    {
        "caption": Value("string"),
        "jpg_0": Value("binary"),
        "jpg_1": Value("binary"),
        "label_0": Value("float64"),
        "label_1": Value("float64"),
        "has_label": Value("bool"),
        "are_different": Value("bool"),
        "seed_0": Value("int64"),
        "seed_1": Value("int64"),
    }
)


@dataclass(frozen=True)
class Split:
    """Scenes by what they are for; no color, shape, background and position together are in two parts."""

    training: list[Attributes]
    development: list[Attributes]
    evaluation: list[Attributes]


def split_scenes(seed: int = 0, development: int = 64, evaluation: int = 100) -> Split:
    """Every scene of the tiny world in one of three parts; in two of them a third of the prompts states a size."""
    rng = np.random.default_rng(seed)
    scenes = [Attributes(*values) for values in product(HUES, SHAPES, BACKGROUNDS, POSITIONS)]
    mixed = [scenes[i] for i in rng.permutation(len(scenes))]
    sized = [replace(scene, size=some_size(rng)) for scene in mixed[: development + evaluation]]
    return Split(mixed[development + evaluation :], sized[:development], sized[development:])


def some_size(rng: np.random.Generator) -> str | None:
    return tuple(SIZES)[rng.integers(len(SIZES))] if rng.random() < 1 / 3 else None


def write_prompts(split: Split, folder: Path, seed: int = 0) -> None:
    """`development.jsonl` in the families of the training captions, `evaluation.jsonl` in one that they never use."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    known = [TRAINING_FAMILIES[rng.integers(len(TRAINING_FAMILIES))](scene) for scene in split.development]
    parts = {"development": known, "evaluation": [EVALUATION_FAMILY(scene) for scene in split.evaluation]}
    for name, prompts in parts.items():
        lines = [json.dumps({"prompt": prompt}) for prompt in prompts]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def sample_pairs(
    pipeline: StableDiffusionPipeline,
    scenes: list[Attributes],
    pairs: int = 3000,
    steps: int = 25,
    guidance: float = 2.5,
    seed: int = 0,
) -> Dataset:
    """Two samples per prompt in the layout of Pick-a-Pic, labelled by noisy draws of the hidden utility.

    Args:
        scenes: what the prompts ask for.
        steps: denoising steps.
        guidance: classifier-free guidance scale.
    """
    rng = np.random.default_rng(seed)
    asked = [replace(scenes[i], size=some_size(rng)) for i in rng.integers(len(scenes), size=pairs)]
    captions = [TRAINING_FAMILIES[rng.integers(len(TRAINING_FAMILIES))](scene) for scene in asked]

    def rows() -> Iterator[dict]:
        for begin in tqdm(range(0, pairs, CHUNK), desc="pairs"):
            some = range(begin, min(begin + CHUNK, pairs))
            twice, seeds = [captions[i] for i in some for _ in range(2)], [2 * i + j for i in some for j in range(2)]
            made = iter(generate_pictures(pipeline, twice, seeds, steps, guidance, batch_size=CHUNK))
            for i in some:
                yield build_record(captions[i], (next(made), next(made)), asked[i], 2 * i, rng)

    return Dataset.from_list(list(rows()), features=LAYOUT)


def build_record(
    caption: str, pair: tuple[Image.Image, Image.Image], asked: Attributes, seed: int, rng: np.random.Generator
) -> dict:
    stored = jpeg(pair[0]), jpeg(pair[1])
    first, second = (utility(measure(Image.open(BytesIO(picture))), asked) for picture in stored)
    label = noisy_label(first - second, rng)
    return {
        "caption": caption,
        "jpg_0": stored[0],
        "jpg_1": stored[1],
        "label_0": label,
        "label_1": 1 - label,
        "has_label": True,
        "are_different": True,
        "seed_0": seed,
        "seed_1": seed + 1,
    }


def jpeg(picture: Image.Image) -> bytes:
    written = BytesIO()
    picture.save(written, "JPEG", quality=95, subsampling=0)
    return written.getvalue()
