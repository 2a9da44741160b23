"""Trains what both bases of the scenes share: the tokenizer and the VAE."""

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTokenizer

from diffpo.lab.scenes.captions import EVALUATION_FAMILY, TRAINING_FAMILIES
from diffpo.lab.scenes.scenes import RESOLUTION, Facts, draw_scene, random_facts
from diffpo.lab.shapes.build import descend, encode, tokenizer_of

CHANNELS, SIDE = 4, RESOLUTION // 4
CONTEXT = 28


def build_tokenizer(seed: int = 0) -> CLIPTokenizer:
    """A CLIP tokenizer in which each word of the captions is one token."""
    rng = np.random.default_rng(seed)
    families = (*TRAINING_FAMILIES, EVALUATION_FAMILY)
    scenes = [random_facts(rng, "training") for _ in range(3000)]
    return tokenizer_of([family(facts) for facts in scenes for family in families], CONTEXT)


def tune_vae(path: str, steps: int = 450, batch: int = 16, lr: float = 5e-4, seed: int = 0) -> AutoencoderKL:
    """Tune the tiny world's VAE on scenes (3 x 48 x 48 pictures to 4 x 12 x 12 latents), and rescale its latents.

    Args:
        path: a pipeline with that VAE, which knows these shapes and colours, one at a time.
    """
    vae: Any = AutoencoderKL.from_pretrained(path, subfolder="vae", dtype=torch.float32)
    rng, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        pixels = render_pictures([random_facts(rng, "training") for _ in range(batch)], rng)
        posterior = vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latent_dist
        error = vae.decode(posterior.sample(noise)).sample - pixels
        return error.abs().mean() + 2 * error.square().mean() + 4e-7 * posterior.kl().mean()

    descend(vae.to(memory_format=torch.channels_last), loss, steps, lr, "VAE")
    vae.to(memory_format=torch.contiguous_format)
    means, _ = encode(vae, render_pictures([random_facts(rng, "training") for _ in range(512)], rng))
    rescale_channels(vae, means)
    vae.register_to_config(scaling_factor=1.0, shift_factor=0.0, sample_size=RESOLUTION)
    return vae


@torch.no_grad()
def rescale_channels(vae: Any, means: Float[Tensor, "n c h w"]) -> None:
    """Give each channel of a VAE's latents deviation 1, without changing any picture: the 1 x 1 convolutions at the
    end of its encoder and at the begin of its decoder take up the change, log variances included."""
    flat = means.transpose(0, 1).flatten(1)
    scale = 1 / flat.std(dim=1)
    channels = len(scale)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:channels] *= scale.view(-1, 1, 1, 1)
    quant.bias[:channels] *= scale
    quant.bias[channels:] += 2 * scale.log()
    post.weight /= scale.view(1, -1, 1, 1)


def render_pictures(facts: list[Facts], rng: np.random.Generator) -> Float[Tensor, "n 3 h w"]:
    """Fresh pictures in [-1, 1]."""
    drawn = np.stack([np.asarray(draw_scene(some, rng)) for some in facts])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1
