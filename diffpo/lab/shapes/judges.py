"""Trains the tiny world's learned judges: a CLIP in miniature, and a PickScore that is fine-tuned from it."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from diffpo.evaluation.scorer import Scorer
from diffpo.lab.shapes.build import WIDTH, descend, render_pictures, seeded
from diffpo.lab.shapes.captions import TRAINING_FAMILIES, Family
from diffpo.lab.shapes.judging_pairs import Comparisons, changed
from diffpo.lab.shapes.preferences import some_size
from diffpo.lab.shapes.scenes import RESOLUTION, Attributes

EMBEDDED = 64
BOTH_SIZES = 16  # scenes of a batch that are shown small and large, so that size is contrasted, too


def train_clip(
    tokenizer: Any, scenes: list[Attributes], steps: int = 600, batch: int = 128, lr: float = 1e-3, seed: int = 0
) -> CLIPModel:
    """Train CLIP (arXiv:2103.00020) on rendered scenes and their captions.

    Args:
        scenes: without a size; each batch holds different ones, so that no caption fits two of its pictures.
    """
    model = untrained_clip(tokenizer, seed=seed)
    rng = np.random.default_rng(seed)

    def loss() -> Tensor:
        some = [scenes[i] for i in rng.permutation(len(scenes))[: batch - BOTH_SIZES]]
        shown = [replace(scene, size=size) for size in ("small", "large") for scene in some[:BOTH_SIZES]]
        shown += [replace(scene, size=some_size(rng)) for scene in some[BOTH_SIZES:]]
        captions = [TRAINING_FAMILIES[rng.integers(len(TRAINING_FAMILIES))](scene) for scene in shown]
        return model(
            pixel_values=render_pictures(shown, rng), **tokenize_prompts(tokenizer, captions), return_loss=True
        ).loss

    descend(model, loss, steps, lr, "CLIP")
    return model


def untrained_clip(
    tokenizer: Any, width: int = 128, layers: int = 4, seed: int = 0, resolution: int = RESOLUTION
) -> CLIPModel:
    """A CLIP for small square pictures in patches of 8 x 8; its text tower has the size of the pipeline's.

    Args:
        width: of the vision tower.
        layers: of the vision tower.
    """
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "projection_dim": EMBEDDED,
    }
    vision = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "image_size": resolution,
        "patch_size": 8,
        "projection_dim": EMBEDDED,
    }
    return seeded(seed, CLIPModel, CLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBEDDED))


def tokenize_prompts(tokenizer: Any, prompts: list[str]) -> Any:
    return tokenizer(prompts, padding=True, truncation=True, return_tensors="pt")


def train_pickscore(
    clip: CLIPModel,
    tokenizer: Any,
    comparisons: Comparisons,
    steps: int = 1000,
    batch: int = 64,
    lr: float = 3e-4,
    seed: int = 0,
) -> CLIPModel:
    """Fine-tune a CLIP on noisy labels with PickScore's objective; `clip` itself stays as it is.

    Args:
        batch: comparisons at a time, of two pictures each.
    """
    model, rng = copy.deepcopy(clip), np.random.default_rng(seed)

    def loss() -> Tensor:
        some = rng.integers(len(comparisons.prompts), size=batch)
        prompts = [comparisons.prompts[i] for i in some]
        shown = torch.from_numpy(comparisons.pixels[:, some]).flatten(0, 1).permute(0, 3, 1, 2)
        made = model(pixel_values=shown / 127.5 - 1, **tokenize_prompts(tokenizer, prompts))
        cosine = (made.image_embeds.unflatten(0, (2, batch)) * made.text_embeds).sum(-1)
        return picked(model.logit_scale.exp() * cosine, torch.from_numpy(comparisons.prob[some])).mean()

    descend(model, loss, steps, lr, "PickScore")
    return model


def picked(score: Float[Tensor, "2 b"], prob: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """PickScore's loss (arXiv:2305.01569, eq. 2): cross-entropy of the label and a softmax over the two scores.

    Args:
        prob: 1 if the first picture was picked, 0 if the second was, 0.5 for a tie.
    """
    return -(torch.stack([prob, 1 - prob]) * score.log_softmax(0)).sum(0)


def save_judge(model: CLIPModel, tokenizer: Any, folder: Path) -> None:
    """A folder as `CLIPModel`, `AutoTokenizer` and `AutoImageProcessor` read it; the weights in fp16."""
    copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    vision: Any = model.config.vision_config
    resolution, half = vision.image_size, [0.5] * 3
    side = {"height": resolution, "width": resolution}
    CLIPImageProcessorPil(
        size={"shortest_edge": resolution}, crop_size=side, image_mean=half, image_std=half
    ).save_pretrained(folder)


@dataclass(frozen=True)
class Agreement:
    """How often two pictures are ordered as by the hidden utility.

    Attributes:
        number: of pairs that count.
        scorer: share of them in which a scorer agrees.
        label: share in which the noisy label agrees, of those that are no ties.
    """

    number: int
    scorer: float
    label: float


def agreement(scorer: Scorer, comparisons: Comparisons, least: float = 0.05) -> Agreement:
    """How well a scorer, and beside it the noisy label, agree with the hidden utility.

    Args:
        least: smaller gaps of utility do not count.
    """
    first, second = (scorer(comparisons.prompts, comparisons.pictures(side)).numpy() for side in (0, 1))
    counts = abs(comparisons.gap) > least
    right = np.sign(first - second) == np.sign(comparisons.gap)
    labeled = counts & (comparisons.prob != 0.5)
    honest = (comparisons.prob > 0.5) == (comparisons.gap > 0)
    return Agreement(int(counts.sum()), float(right[counts].mean()), float(honest[labeled].mean()))


def faithfulness(
    scorer: Scorer, shown: list[Attributes], drawn: list[Image.Image], family: Family, seed: int = 0
) -> dict[str, float]:
    """How often the right caption scores more than one with a changed attribute, by that attribute and for all."""
    rng = np.random.default_rng(seed)
    names, wrong = zip(*(changed(scene, rng) for scene in shown), strict=True)
    right, other = (scorer([family(scene) for scene in some], drawn) for some in (shown, wrong))
    won = (right > other).numpy()
    by_name = {name: float(won[np.array(names) == name].mean()) for name in sorted(set(names))}
    return by_name | {"all": float(won.mean())}
