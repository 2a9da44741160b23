"""Networks of a few thousand random weights, and pairs to put through them."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diffpo.core.draws import Draws
from diffpo.core.pair import PairLabels, PairLogps
from diffpo.diffusion.base.prediction import Epsilon, Prediction
from diffpo.diffusion.data.batches import Conditioning, ImageBatch
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.model.sampling import generate_pictures
from diffpo.lab.shapes.build import build_tokenizer

WIDTH = 16
tokenizer_of_captions = cache(build_tokenizer)


def unet(seed: int = 0, **config) -> UNet2DConditionModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=2,
            **{"cross_attention_dim": WIDTH} | config,
        )


def unet_xl(seed: int = 0, **config) -> UNet2DConditionModel:
    """As in SDXL: states of two encoders, a pooled state and six time ids."""
    return unet(
        seed,
        cross_attention_dim=3 * WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=2 * WIDTH + 6 * 4,
        **config,
    )


def moved(network: torch.nn.Module, by: float = 0.05, seed: int = 0) -> torch.nn.Module:
    """The same network, in place, with all weights shifted at random."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=rng))
    return network


def scheduler(**changed) -> DDIMScheduler:
    sd15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    return DDIMScheduler(**sd15 | {"set_alpha_to_one": False, "steps_offset": 1} | changed)


def denoiser(network: torch.nn.Module | None = None, prediction: Prediction | None = None) -> Denoiser:
    alpha_bar = scheduler().alphas_cumprod
    return Denoiser(network or unet(), alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), prediction or Epsilon())


def image_batch(b: int = 3, k: int = 2, dual: bool = False, label: PairLabels | None = None) -> ImageBatch:
    rng = torch.Generator().manual_seed(1)
    states = torch.randn(k if dual else 1, b, 5, WIDTH, generator=rng).expand(k, b, 5, WIDTH)
    latents = torch.randn(k, b, 4, 8, 8, generator=rng)
    return ImageBatch(latents, Conditioning({"prompt": states}), label or PairLabels.hard(b), tuple(range(b)))


def draws(b: int = 3, seed: int = 0, epoch: int = 0) -> Draws:
    return Draws(seed, (epoch,) * b, tuple(range(b)))


def pair_logps(b: int = 5, seed: int = 0) -> PairLogps:
    rng = torch.Generator().manual_seed(seed)
    return PairLogps(
        torch.randn(2, b, generator=rng),
        torch.randn(2, b, generator=rng),
        torch.randint(1, 9, (2, b), generator=rng).float(),
    )


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        sample_size=32,
    )


def text_config(**changed) -> CLIPTextConfig:
    tokenizer = tokenizer_of_captions()
    small = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return CLIPTextConfig(**small | tokens | {"vocab_size": len(tokenizer), "max_position_embeddings": 24} | changed)


def pipeline(seed: int = 0, **schedule) -> StableDiffusionPipeline:
    """A Stable Diffusion of 32 x 32 pictures and 8 x 8 latents, untrained."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = vae(), CLIPTextModel(text_config())
    return StableDiffusionPipeline(
        *parts,
        tokenizer_of_captions(),
        unet(seed),
        scheduler(**schedule),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def pipeline_xl(seed: int = 0, force_zeros: bool = True, **schedule) -> StableDiffusionXLPipeline:
    """An SDXL of the same size, untrained."""
    tokenizer = tokenizer_of_captions()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = (
            vae(),
            CLIPTextModel(text_config(num_hidden_layers=2)),
            CLIPTextModelWithProjection(
                text_config(num_hidden_layers=2, hidden_size=2 * WIDTH, projection_dim=2 * WIDTH)
            ),
        )
    return StableDiffusionXLPipeline(
        *parts,
        tokenizer,
        tokenizer,
        unet_xl(seed),
        scheduler(**schedule),
        force_zeros_for_empty_prompt=force_zeros,
        add_watermarker=False,
    )


def picture(
    color: str | tuple[int, int, int] = "red", size: tuple[int, int] = (40, 32), seed: int | None = None
) -> Image.Image:
    """A plain picture, or noise if a seed is given."""
    if seed is None:
        return Image.new("RGB", size, color)
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=(*size[::-1], 3), dtype=np.uint8))


def pair_folder(root: Path, n: int = 6) -> Path:
    """`n` pairs of noise pictures in the layout of `diffpo.data.PairFolder`."""
    for side in ("chosen", "rejected"):
        (root / side).mkdir(parents=True)
    for i in range(n):
        picture(seed=2 * i).save(root / "chosen" / f"{i}.png")
        picture(seed=2 * i + 1).save(root / "rejected" / f"{i}.png")
        (root / f"{i}.txt").write_text(f"a red circle on the left {i}")
    return root


def saved(folder: Path, **schedule) -> str:
    """`pipeline` as a folder that diffusers loads."""
    pipeline(**schedule).save_pretrained(folder)
    return str(folder)


def saved_xl(folder: Path, **settings) -> str:
    """`pipeline_xl` as a folder that diffusers loads."""
    pipeline_xl(**settings).save_pretrained(folder)
    return str(folder)


def drawn(
    pipe: StableDiffusionPipeline | StableDiffusionXLPipeline, prompt: str = "a red circle on the left"
) -> np.ndarray:
    """One picture in two steps, always from the same noise."""
    return np.asarray(generate_pictures(pipe, [prompt], [0], steps=2, guidance=2.0)[0])


def trained(network: torch.nn.Module, by: float = 0.05) -> torch.nn.Module:
    """The same network, in place, with its trainable weights shifted at random."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=rng))
    return network


def alike(one: torch.Tensor, other: torch.Tensor, atol: float = 1e-5) -> bool:
    """Whether two computations of the same thing agree.

    On some CPUs the last bits of a kernel's output depend on where its inputs lie in memory.
    """
    return torch.allclose(one, other, rtol=1e-4, atol=atol)
