"""Comparisons that teach the tiny world's learned judges, and others that test them; no experiment uses either."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter
from tqdm import tqdm

from diffpo.diffusion.model.sampling import decode_latents, generate_pictures
from diffpo.lab.shapes.captions import VOCABULARY, Family, read_caption
from diffpo.lab.shapes.oracle import measure, noisy_label, utility
from diffpo.lab.shapes.oracle_check import two_objects, with_noise
from diffpo.lab.shapes.preferences import CHUNK, some_size
from diffpo.lab.shapes.scenes import SIZES, Attributes, random_scene, render

HABITS = {"steps": (4, 6, 8, 12, 25), "guidance": (1.5, 2.5, 4.0, 7.5)}
QUICKSTART = {"steps": (25,), "guidance": (2.5,)}


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Two pictures for each prompt.

    Attributes:
        pixels: the pictures.
        utility: of each, the hidden and noise-free one.
        prob: the noisy label: 1, 0 or 0.5 where the first picture won, lost or tied.
    """

    prompts: list[str]
    pixels: UInt8[np.ndarray, "2 n h w 3"]
    utility: Float[np.ndarray, "2 n"]
    prob: Float[np.ndarray, " n"]

    @property
    def gap(self) -> Float[np.ndarray, " n"]:
        """Utility of the first picture minus that of the second."""
        return self.utility[0] - self.utility[1]

    def pictures(self, side: int) -> list[Image.Image]:
        return [Image.fromarray(pixels) for pixels in self.pixels[side]]


def join_comparisons(parts: Sequence[Comparisons]) -> Comparisons:
    return Comparisons(
        [prompt for part in parts for prompt in part.prompts],
        np.concatenate([part.pixels for part in parts], axis=1),
        np.concatenate([part.utility for part in parts], axis=1),
        np.concatenate([part.prob for part in parts]),
    )


def compare_pictures(
    prompts: list[str],
    asked: list[Attributes],
    sides: Sequence[list[Image.Image]],
    rng: np.random.Generator,
) -> Comparisons:
    """What the hidden utility, and a noisy draw of it, say of the two pictures of each prompt."""
    worth = [[utility(measure(picture), wanted) for picture, wanted in zip(s, asked, strict=True)] for s in sides]
    utilities = np.array(worth)
    prob = np.array([noisy_label(gap, rng) for gap in utilities[0] - utilities[1]])
    pixels = np.stack([np.stack([np.asarray(picture) for picture in side]) for side in sides])
    return Comparisons(prompts, pixels, utilities, prob)


def draw_requests(
    scenes: list[Attributes], n: int, families: tuple[Family, ...], rng: np.random.Generator
) -> tuple[list[str], list[Attributes]]:
    """`n` captions in random families, of which a third states a size, and what they ask for."""
    asked = [replace(scenes[i], size=some_size(rng)) for i in rng.integers(len(scenes), size=n)]
    return [families[rng.integers(len(families))](scene) for scene in asked], asked


def sample_comparisons(
    pipeline: StableDiffusionPipeline,
    scenes: list[Attributes],
    n: int,
    families: tuple[Family, ...],
    first_seed: int,
    habits: dict[str, tuple],
) -> Comparisons:
    """Pairs of the pipeline's samples, both sides with steps and guidance that are drawn for each chunk.

    Args:
        first_seed: of the first picture; the others count up. It also seeds the rest.
        habits: the steps, and the guidance scales, that a chunk may have.
    """
    rng = np.random.default_rng(first_seed)
    prompts, asked = draw_requests(scenes, n, families, rng)
    sides: tuple[list[Image.Image], list[Image.Image]] = [], []
    for begin in tqdm(range(0, n, CHUNK), desc="samples"):
        some = prompts[begin : begin + CHUNK]
        for j, side in enumerate(sides):
            chosen = {name: values[rng.integers(len(values))] for name, values in habits.items()}
            seeds = [first_seed + 2 * (begin + i) + j for i in range(len(some))]
            side += generate_pictures(pipeline, some, seeds, batch_size=CHUNK, **chosen)
    return compare_pictures(prompts, asked, sides, rng)


def imagined(
    pipeline: StableDiffusionPipeline, scenes: list[Attributes], n: int, families: tuple[Family, ...], seed: int
) -> Comparisons:
    """Pairs of rendered pictures (`attempt`), half of which have been through the pipeline's VAE."""
    rng = np.random.default_rng(seed)
    prompts, asked = draw_requests(scenes, n, families, rng)
    sides: list[list[Image.Image]] = []
    for _ in range(2):
        drawn = [attempt(wanted, rng) for wanted in asked]
        through = np.flatnonzero(rng.random(n) < 0.5)
        for i, picture in zip(through, reconstructed(pipeline, [drawn[i] for i in through], rng), strict=True):
            drawn[i] = picture
        sides.append(drawn)
    return compare_pictures(prompts, asked, sides, rng)


def against_vivid(pipeline: StableDiffusionPipeline, known: Comparisons, seed: int) -> Comparisons:
    """The first picture of each comparison against a rendered one that is vivid, large where that is open, and has
    been through the VAE, in one of two cases with noise: what tuned models draw, frayed ones included."""
    rng = np.random.default_rng(seed)
    asked = [read_caption(prompt) for prompt in known.prompts]
    scenes = [
        replace(random_scene(a, rng), vividness=rng.uniform(0.85, 1), extent=rng.uniform(*SIZES[a.size or "large"]))
        for a in asked
    ]
    drawn = reconstructed(pipeline, [render(scene) for scene in scenes], rng)
    return compare_pictures(known.prompts, asked, (known.pictures(0), drawn), rng)


@torch.no_grad()
def reconstructed(pipeline: Any, drawn: list[Image.Image], rng: np.random.Generator) -> list[Image.Image]:
    """Pictures as the VAE returns them, half of them from latents with noise of up to half their deviation: frayed."""
    made: list[Image.Image] = []
    for begin in range(0, len(drawn), CHUNK):
        pixels = pipeline.image_processor.preprocess(drawn[begin : begin + CHUNK])
        latents = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
        strength = rng.uniform(-0.5, 0.5, size=(len(latents), 1, 1, 1)).clip(min=0)
        noise = strength * rng.standard_normal(latents.shape)
        made += decode_latents(pipeline, latents + torch.from_numpy(noise).float())
    return made


def attempt(asked: Attributes, rng: np.random.Generator) -> Image.Image:
    """A rendered answer to a request: one in four shows a wrong attribute, and of all one in eight is spoiled.

    Vividness and, where open, size vary more than in the captioned scenes, as those of tuned models do.
    """
    shown = changed(asked, rng)[1] if rng.random() < 0.25 else asked
    extent = rng.uniform(*SIZES[shown.size]) if shown.size else rng.uniform(0.13, 0.31)
    scene = replace(random_scene(shown, rng), extent=extent, vividness=rng.uniform(0.35, 1))
    return spoiled(render(scene), rng) if rng.random() < 0.125 else render(scene)


def spoiled(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A picture blurred, with noise on it, or another one of two objects."""
    ways = (
        lambda: picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3))),
        lambda: with_noise(picture, rng.uniform(0.03, 0.4), rng),
        lambda: two_objects(rng),
    )
    return ways[rng.integers(len(ways))]()


def changed(asked: Attributes, rng: np.random.Generator) -> tuple[str, Attributes]:
    """The name of a stated attribute, and the request with another value of it."""
    stated = asked.stated()
    name = list(stated)[rng.integers(len(stated))]
    others = [value for value in VOCABULARY[name] if value != stated[name]]
    return name, replace(asked, **{name: others[rng.integers(len(others))]})
