"""Build the tiny world's learned judges: `tiny-clip` and `tiny-pickscore`. Takes about half an hour on one core, once.

python scripts/build_assets.py scorers --output_dir assets
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from diffpo.lab.shapes.captions import EVALUATION_FAMILY, TRAINING_FAMILIES
from diffpo.lab.shapes.judges import agreement, faithfulness, save_judge, train_clip, train_pickscore
from diffpo.lab.shapes.judging_pairs import (
    HABITS,
    QUICKSTART,
    Comparisons,
    against_vivid,
    imagined,
    join_comparisons,
    sample_comparisons,
)
from diffpo.lab.shapes.preferences import Split, split_scenes
from diffpo.lab.shapes.scenes import random_scene, render
from diffpo.scorers.clip_score import CLIPScore
from diffpo.scorers.pickscore import PickScore

SEED_OF_SAMPLES = 1_000_000  # tiny-pairs has those below 6,000, evaluations begin at 10,000,000
SEED_OF_TESTS = 20_000_000

CLIP_CARD = """# tiny-clip

A CLIP (arXiv:2103.00020; `CLIPModel`, {parameters:.2f} million parameters, 32 x 32 pictures) for the tiny world,
trained contrastively on rendered scenes of the training split and their captions, {steps} batches of 128. It sees
whether a picture shows what a caption says; of taste it knows nothing.

How often the right caption scores more than one with a single attribute changed, on rendered scenes of the evaluation
split, captioned in a way that no training caption is:

{table}

`python scripts/build_assets.py scorers --output_dir assets` builds it anew.
"""

PICKSCORE_CARD = """# tiny-pickscore

A PickScore (arXiv:2305.01569) for the tiny world: `tiny-clip`, fine-tuned on which of two pictures of a prompt was
preferred. Its labels are noisy draws of the hidden utility over {sampled} pairs of the shipped base's samples (4 to 25
steps, guidance 1.5 to 7.5) and {rendered} pairs of rendered pictures, some with a wrong attribute, blurred, noisy or
frayed, half of them passed through the VAE. No pair and no seed of them is in `tiny-pairs`, and none of their scenes
in the development or evaluation prompts. It is a learned scorer: **it never judges what it labeled.**

How often it orders two pictures as the noise-free utility does, for evaluation scenes, captioned in a way that no
training caption is, and seeds of no other use; beside it, how often the noisy label does where it is no tie:

{table}

`python scripts/build_assets.py scorers --output_dir assets` builds it anew.
"""


def main(
    output_dir: Path,
    base: str = "assets/tiny-sd",
    clip_steps: int = 600,
    pickscore_steps: int = 1000,
    sampled_pairs: int = 2048,
    rendered_pairs: int = 12_000,
    test_pairs: int = 300,
    test_pictures: int = 1600,
    seed: int = 0,
    settings: str = "",
) -> None:
    """Build the tiny world's learned judges.

    Args:
        output_dir: gets the two folders.
        base: the pipeline whose samples are compared.
        clip_steps: optimizer steps of the CLIP.
        pickscore_steps: optimizer steps of the PickScore.
        sampled_pairs: pairs of the pipeline's samples.
        rendered_pairs: pairs of rendered pictures.
        test_pairs: of each kind of held-out pairs.
        test_pictures: held-out scenes whose captions are told from others.
        seed: of everything random.
        settings: the resolved config.
    """
    torch.set_flush_denormal(True)
    pipeline = StableDiffusionPipeline.from_pretrained(base, dtype=torch.float32)
    tokenizer, split = pipeline.tokenizer, split_scenes()
    clip = train_clip(tokenizer, split.training, clip_steps, seed=seed)
    save_judge(clip, tokenizer, output_dir / "tiny-clip")
    table = clip_table(output_dir / "tiny-clip", split, test_pictures)
    text = CLIP_CARD.format(parameters=clip.num_parameters() / 1e6, steps=clip_steps, table=table)
    tell(text, output_dir / "tiny-clip")

    made = sample_comparisons(
        pipeline, split.training, sampled_pairs, TRAINING_FAMILIES, SEED_OF_SAMPLES + 100_000 * seed, HABITS
    )
    drawn = imagined(pipeline, split.training, rendered_pairs, TRAINING_FAMILIES, seed)
    pickscore = train_pickscore(clip, tokenizer, join_comparisons([made, drawn]), pickscore_steps, seed=seed)
    save_judge(pickscore, tokenizer, output_dir / "tiny-pickscore")
    table = pickscore_table(output_dir / "tiny-pickscore", held_out(pipeline, split, test_pairs))
    text = PICKSCORE_CARD.format(sampled=sampled_pairs, rendered=rendered_pairs, table=table)
    tell(text, output_dir / "tiny-pickscore")


def held_out(pipeline: StableDiffusionPipeline, split: Split, n: int) -> dict[str, Comparisons]:
    """Pairs for prompts of the evaluation scenes, in the family of captions that no training uses."""
    family = (EVALUATION_FAMILY,)
    base = sample_comparisons(pipeline, split.evaluation, n, family, SEED_OF_TESTS, QUICKSTART)
    return {
        "the base's samples (25 steps, guidance 2.5)": base,
        "the base's samples at other steps and guidance": sample_comparisons(
            pipeline, split.evaluation, n, family, SEED_OF_TESTS + 100_000, HABITS
        ),
        "a sample of the base against a vivid, often frayed render": against_vivid(pipeline, base, SEED_OF_TESTS),
        "rendered pictures, right, wrong and spoiled": imagined(pipeline, split.evaluation, n, family, SEED_OF_TESTS),
    }


def clip_table(folder: Path, split: Split, n: int) -> str:
    rng = np.random.default_rng(SEED_OF_TESTS)
    shown = [split.evaluation[i % len(split.evaluation)] for i in range(n)]
    pictures = [render(random_scene(scene, rng)) for scene in shown]
    told = faithfulness(CLIPScore(str(folder), device="cpu"), shown, pictures, EVALUATION_FAMILY)
    rows = [f"| {name} | {100 * share:.1f} % |" for name, share in told.items()]
    return "\n".join(["| changed attribute | right caption preferred |", "|---|---|", *rows])


def pickscore_table(folder: Path, parts: dict[str, Comparisons]) -> str:
    scorer = PickScore(str(folder), device="cpu")
    lines = ["| held-out pairs | utility gap | number | tiny-pickscore | noisy label |", "|---|---|---|---|---|"]
    for name, comparisons in parts.items():
        for least in (0.05, 0.0):
            found = agreement(scorer, comparisons, least)
            shares = f"{100 * found.scorer:.1f} % | {100 * found.label:.1f} %"
            lines.append(f"| {name} | above {least} | {found.number} | {shares} |")
    return "\n".join(lines)


def tell(card: str, folder: Path) -> None:
    (folder / "README.md").write_text(card)
    print(card)
