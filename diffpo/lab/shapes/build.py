"""Trains the tiny world's pipeline, a Stable Diffusion in miniature: tokenizer, VAE, text encoder and UNet."""

import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel, compute_snr
from jaxtyping import Float
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from tqdm import trange
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffpo.lab.shapes.captions import EVALUATION_FAMILY, TRAINING_FAMILIES
from diffpo.lab.shapes.scenes import RESOLUTION, Attributes, random_attributes, random_scene, render

CONTEXT = 24
WIDTH = 96


def build_tokenizer(seed: int = 0) -> CLIPTokenizer:
    """A CLIP tokenizer (byte-level BPE) whose merges make one token of each word of the captions."""
    rng = np.random.default_rng(seed)
    families = (*TRAINING_FAMILIES, EVALUATION_FAMILY)
    return tokenizer_of([family(random_attributes(rng)) for _ in range(3000) for family in families], CONTEXT)


def tokenizer_of(captions: list[str], context: int) -> CLIPTokenizer:
    """A CLIP tokenizer that makes one token of each word of some captions, and reads `context` tokens."""
    alphabet = sorted(ByteLevel.alphabet())
    merges = learn_merges(Counter(word for caption in captions for word in re.findall(r"[a-z]+|,", caption)))
    symbols = [*alphabet, *(byte + "</w>" for byte in alphabet), *("".join(pair) for pair in merges)]
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    with TemporaryDirectory() as folder:
        vocab = {symbol: i for i, symbol in enumerate(dict.fromkeys(symbols))}
        (Path(folder) / "vocab.json").write_text(json.dumps(vocab))
        (Path(folder) / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=context)


def learn_merges(words: Counter[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding (arXiv:1508.07909) until each word is one symbol; of equally frequent pairs the first in the
    alphabet is merged, whereas `tokenizers` lets a random hash decide and gives another tokenizer in each run."""
    split = {word: [*word[:-1], word[-1] + "</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while any(len(parts) > 1 for parts in split.values()):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        split = {word: merge(parts, merges[-1]) for word, parts in split.items()}
    return merges


def merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def train_vae(steps: int = 3000, batch: int = 32, lr: float = 1e-3, seed: int = 0) -> AutoencoderKL:
    """Train the VAE (3 x 32 x 32 pictures to 4 x 8 x 8 latents) and set the scaling factor of its latents."""
    vae = seeded(
        seed,
        AutoencoderKL,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        norm_num_groups=8,
        latent_channels=4,
        sample_size=RESOLUTION,
    )
    rng, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        pixels = render_pictures([random_attributes(rng) for _ in range(batch)], rng)
        posterior = vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latent_dist
        error = vae.decode(posterior.sample(noise)).sample - pixels
        return error.abs().mean() + 2 * error.square().mean() + 4e-7 * posterior.kl().mean()

    descend(vae.to(memory_format=torch.channels_last), loss, steps, lr, "VAE")
    means, _ = encode(vae, render_pictures([random_attributes(rng) for _ in range(512)], rng))
    vae.register_to_config(scaling_factor=round(1 / means.std().item(), 5))
    return vae.to(memory_format=torch.contiguous_format)


def render_pictures(attributes: list[Attributes], rng: np.random.Generator) -> Float[Tensor, "n 3 h w"]:
    """Fresh renders in [-1, 1]."""
    drawn = np.stack([np.asarray(render(random_scene(a, rng))) for a in attributes])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode(vae: Any, pixels: Float[Tensor, "n 3 h w"]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the latents, unscaled."""
    posteriors = [vae.encode(part).latent_dist for part in pixels.split(128)]
    return torch.cat([p.mean for p in posteriors]), torch.cat([p.std for p in posteriors])


def seeded(seed: int, build: Callable[..., nn.Module], *args, **config) -> Any:
    """A module whose initial weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        return build(*args, **config)


def descend(model: nn.Module, loss: Callable[[], Tensor], steps: int, lr: float, title: str) -> None:
    """AdamW with warm-up and cosine decay; the model ends with the moving average of its weights."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=1e-3)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=100, num_training_steps=steps)
    ema = EMAModel(parameters, decay=0.998)
    model.train()
    for _ in (bar := trange(steps, desc=title)):
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.step(parameters)
        bar.set_postfix(loss=f"{value.item():.4f}", refresh=False)
    ema.copy_to(parameters)
    model.eval()


def train_base(
    vae: Any,
    tokenizer: Any,
    steps: int = 4000,
    batch: int = 64,
    lr: float = 1e-3,
    scenes: int = 20_000,
    seed: int = 0,
) -> StableDiffusionPipeline:
    """Train text encoder and UNet together on captioned scenes, with Stable Diffusion 1.5's schedule.

    Stopped when it renders well and still misplaces many objects: something to align.

    Args:
        scenes: pictures are rendered and encoded once; captions are written anew at each visit.
    """
    rng, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    shown = [random_attributes(rng) for _ in range(scenes)]
    parts = [encode(vae, render_pictures(shown[i : i + 500], rng)) for i in range(0, scenes, 500)]
    means, deviations = (torch.cat(part) * vae.config.scaling_factor for part in zip(*parts, strict=True))
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    unet = seeded(
        seed,
        UNet2DConditionModel,
        sample_size=RESOLUTION // 4,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(64, 96),
        attention_head_dim=(2, 3),  # heads, as in Stable Diffusion: this field is misnamed in diffusers
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=WIDTH,
    )
    text = seeded(
        seed,
        CLIPTextModel,
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            projection_dim=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
    )

    def loss() -> Tensor:
        picks = rng.integers(scenes, size=batch)
        captions = [training_caption(shown[i], rng) for i in picks]
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        chosen = torch.from_numpy(picks)
        latents = means[chosen] + deviations[chosen] * torch.randn(batch, *means.shape[1:], generator=noise)
        eps = torch.randn(latents.shape, generator=noise)
        t = torch.randint(1000, (batch,), generator=noise)
        predicted = unet(scheduler.add_noise(latents, eps, t), t, text(tokens).last_hidden_state).sample
        weight = 1 / compute_snr(scheduler, t).clamp(min=5.0) * 5  # min-SNR-5 (arXiv:2303.09556)
        return (weight * (predicted - eps).square().mean(dim=(1, 2, 3))).mean()

    descend(nn.ModuleList([unet, text]), loss, steps, lr, "base")
    return StableDiffusionPipeline(vae, text, tokenizer, unet, scheduler, None, None, requires_safety_checker=False)  # type: ignore[reportArgumentType]


def training_caption(shown: Attributes, rng: np.random.Generator) -> str:
    """A caption of a random family: one in ten is empty, and one in ten of the others leaves an attribute out."""
    if rng.random() < 0.1:
        return ""
    stated = shown.stated()
    if rng.random() < 0.1:
        del stated[list(stated)[rng.integers(len(stated))]]
    return TRAINING_FAMILIES[rng.integers(len(TRAINING_FAMILIES))](Attributes(**stated))


def save_pipeline(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Ship VAE and UNet in fp16, half the size; the text encoder in fp32, the type transformers would load it as."""
    pipeline.vae.half()
    pipeline.unet.half()
    pipeline.save_pretrained(folder)
