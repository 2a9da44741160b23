"""Build the scenes' learned judges, `scenes-clip` and `scenes-pickscore`. Takes about half an hour on one core, once.

python scripts/build_assets.py scene_scorers --output_dir assets
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel

from diffpo.evaluation.scorer import Scorer
from diffpo.lab.scenes.bases import load_scene_base
from diffpo.lab.scenes.build import render_pictures
from diffpo.lab.scenes.captions import EVALUATION_FAMILY, misstate
from diffpo.lab.scenes.oracle import measure
from diffpo.lab.scenes.people import COMMON, Rater, gather_raters, hold_vote
from diffpo.lab.scenes.reading import GUIDANCE, STEPS, draw_prompts
from diffpo.lab.scenes.scenes import RESOLUTION, Facts, draw_scene, random_facts
from diffpo.lab.scenes.speakers import choose_family
from diffpo.lab.shapes.build import descend
from diffpo.lab.shapes.judges import agreement, save_judge, tokenize_prompts, train_pickscore, untrained_clip
from diffpo.lab.shapes.judging_pairs import Comparisons, join_comparisons
from diffpo.scorers.clip_score import CLIPScore
from diffpo.scorers.pickscore import PickScore

WRONG, SPOILED = 0.4, 0.15  # how often a rendered picture shows another fact, or is blurred
SEED_OF_SAMPLES = 1_000_000  # scenes-pairs has those below 8,000, evaluations begin at 10,000,000
SEED_OF_TESTS = 20_000_000

CLIP_CARD = """# scenes-clip

A CLIP (arXiv:2103.00020; `CLIPModel`, {parameters:.2f} million parameters, 48 x 48 pictures) for the scenes, trained
contrastively on rendered scenes of the training part and their captions, {steps} batches of 128, half of which differ
from the other half in one fact. Of taste it knows nothing.

How often the caption of a rendered scene of the evaluation part, in a family that no training caption is of, scores
more than one with a wrong fact: {right:.1%} of {number}.

`python scripts/build_assets.py scene_scorers --output_dir assets` builds it anew.
"""

PICKSCORE_CARD = """# scenes-pickscore

A PickScore (arXiv:2305.01569) for the scenes: `scenes-clip`, fine-tuned on the shares of five people's votes on
{sampled} pairs of the shipped base's samples ({few} steps) and {rendered} pairs of rendered pictures, some of which
show another fact or are blurred. No pair and no seed of them is in `scenes-pairs`, and none of their scenes in the
development or evaluation prompts. It is a learned scorer: **it never judges what it labeled.**

How often it orders two samples of the base (25 steps) as the common utility does, for scenes of the evaluation part in
a family that no training caption is of; beside it, how often the majority of five votes does where there is one:

| utility gap | pairs | scenes-pickscore | majority |
|---|---:|---:|---:|
{table}

`python scripts/build_assets.py scene_scorers --output_dir assets` builds it anew.
"""


def main(
    output_dir: Path,
    base: str = "assets/scenes-sd",
    clip_steps: int = 1500,
    pickscore_steps: int = 1000,
    sampled_pairs: int = 2048,
    sampling_steps: int = 8,
    rendered_pairs: int = 6000,
    test_pairs: int = 300,
    test_scenes: int = 1000,
    seed: int = 0,
    settings: str = "",
) -> None:
    """Build the scenes' learned judges.

    Args:
        output_dir: gets the two folders.
        base: the pipeline whose samples are compared.
        clip_steps: optimizer steps of the CLIP.
        pickscore_steps: optimizer steps of the PickScore.
        sampled_pairs: pairs of the pipeline's samples.
        sampling_steps: of these samples.
        rendered_pairs: pairs of rendered pictures.
        test_pairs: held-out pairs of samples.
        test_scenes: held-out scenes whose captions are told from others.
        seed: of everything random.
        settings: the resolved config.
    """
    torch.set_flush_denormal(True)
    pipe, raters = load_scene_base(base), gather_raters()
    clip = train_scene_clip(pipe.tokenizer, clip_steps, seed=seed)
    save_judge(clip, pipe.tokenizer, output_dir / "scenes-clip")
    right = tell_facts_apart(CLIPScore(str(output_dir / "scenes-clip"), device="cpu"), test_scenes, SEED_OF_TESTS)
    card = CLIP_CARD.format(
        parameters=clip.num_parameters() / 1e6, steps=clip_steps, right=right, number=f"{test_scenes:,}"
    )
    (output_dir / "scenes-clip" / "README.md").write_text(card)
    print(card, flush=True)

    first = SEED_OF_SAMPLES + 100_000 * seed
    made = sample_scenes(pipe, sampled_pairs, raters, "training", first, sampling_steps, GUIDANCE)
    known = join_comparisons([made, render_scenes(rendered_pairs, raters, seed)])
    pickscore = train_pickscore(clip, pipe.tokenizer, known, pickscore_steps, seed=seed)
    save_judge(pickscore, pipe.tokenizer, output_dir / "scenes-pickscore")
    tests = sample_scenes(pipe, test_pairs, raters, "evaluation", SEED_OF_TESTS, STEPS, GUIDANCE)
    table = tabulate_agreement(PickScore(str(output_dir / "scenes-pickscore"), device="cpu"), tests)
    card = PICKSCORE_CARD.format(sampled=sampled_pairs, few=sampling_steps, rendered=rendered_pairs, table=table)
    (output_dir / "scenes-pickscore" / "README.md").write_text(card)
    print(card, flush=True)


def tabulate_agreement(scorer: Scorer, comparisons: Comparisons) -> str:
    found = {f"above {least}": agreement(scorer, comparisons, least) for least in (0.0, 0.05, 0.2)}
    return "\n".join(f"| {gap} | {one.number} | {one.scorer:.1%} | {one.label:.1%} |" for gap, one in found.items())


def train_scene_clip(tokenizer: Any, steps: int = 800, batch: int = 128, lr: float = 1e-3, seed: int = 0) -> CLIPModel:
    """Train CLIP (arXiv:2103.00020) on rendered scenes of the training part and their captions."""
    model, rng = untrained_clip(tokenizer, seed=seed, resolution=RESOLUTION), np.random.default_rng(seed)

    def loss() -> Tensor:
        shown = [random_facts(rng, "training") for _ in range(batch // 2)]
        shown += [misstate(facts, rng) for facts in shown]  # pictures that differ in one fact
        captions = [choose_family(rng)(facts) for facts in shown]
        pixels = render_pictures(shown, rng)
        return model(pixel_values=pixels, **tokenize_prompts(tokenizer, captions), return_loss=True).loss

    descend(model, loss, steps, lr, "CLIP")
    return model


def compare_scenes(
    captions: list[str],
    asked: list[Facts],
    sides: tuple[list[Image.Image], list[Image.Image]],
    raters: list[Rater],
    rng: np.random.Generator,
) -> Comparisons:
    """The common utility of both pictures of each prompt, and the share of five people's votes for the first."""
    seen = [[measure(picture) for picture in side] for side in sides]
    utility = [[COMMON.utility(one, facts) for one, facts in zip(side, asked, strict=True)] for side in seen]
    votes = [hold_vote(raters, (a, b), facts, rng).soft for a, b, facts in zip(*seen, asked, strict=True)]
    pixels = np.stack([np.stack([np.asarray(picture) for picture in side]) for side in sides])
    return Comparisons(captions, pixels, np.array(utility), np.array(votes))


def sample_scenes(
    pipe: Any, number: int, raters: list[Rater], part: str, first_seed: int, steps: int, guidance: float
) -> Comparisons:
    """Pairs of a base's samples; captions of the evaluation part are in the family that no training uses."""
    rng = np.random.default_rng(first_seed)
    asked = [random_facts(rng, part) for _ in range(number)]
    captions = [(EVALUATION_FAMILY if part == "evaluation" else choose_family(rng))(facts) for facts in asked]
    first, second = (
        draw_prompts(pipe, captions, [first_seed + 2 * i + side for i in range(number)], steps, guidance)
        for side in range(2)
    )
    return compare_scenes(captions, asked, (first, second), raters, rng)


def render_scenes(number: int, raters: list[Rater], seed: int) -> Comparisons:
    """Pairs of rendered pictures of training scenes, some of which show another fact or are blurred."""
    rng = np.random.default_rng(seed)
    asked = [random_facts(rng, "training") for _ in range(number)]
    captions = [choose_family(rng)(facts) for facts in asked]
    first, second = ([attempt_scene(facts, rng) for facts in asked] for _ in range(2))
    return compare_scenes(captions, asked, (first, second), raters, rng)


def attempt_scene(asked: Facts, rng: np.random.Generator) -> Image.Image:
    picture = draw_scene(misstate(asked, rng) if rng.random() < WRONG else asked, rng)
    if rng.random() < SPOILED:
        side = int(rng.integers(10, 24))
        return picture.resize((side, side), Image.Resampling.BILINEAR).resize((RESOLUTION, RESOLUTION))
    return picture


def tell_facts_apart(scorer: Scorer, number: int, seed: int) -> float:
    """How often a caption of a rendered evaluation scene scores more than one with a wrong fact."""
    rng = np.random.default_rng(seed)
    asked = [random_facts(rng, "evaluation") for _ in range(number)]
    wrong = [misstate(facts, rng) for facts in asked]
    differs = torch.tensor([a != b for a, b in zip(asked, wrong, strict=True)])
    pictures = [draw_scene(facts, rng) for facts in asked]
    right, other = (scorer([EVALUATION_FAMILY(facts) for facts in some], pictures) for some in (asked, wrong))
    return float((right > other)[differs].double().mean())
