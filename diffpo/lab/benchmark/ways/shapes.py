"""Sizes of the networks that are timed and counted; weights are random, so nothing is downloaded."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

CONTEXT = 77
CROSS = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
VAE = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}


@dataclass(frozen=True, eq=False)
class Shape:
    """Configurations of the parts of a pipeline.

    Attributes:
        resolution: side of its pictures in pixels; eight times that of its latents.
        unet: arguments of `UNet2DConditionModel`.
        vae: arguments of `AutoencoderKL`.
        texts: width, layers and heads of each text encoder; two make it an SDXL.
    """

    resolution: int
    unet: dict[str, Any]
    vae: dict[str, Any]
    texts: tuple[tuple[int, int, int], ...]

    @property
    def is_xl(self) -> bool:
        return len(self.texts) == 2

    def pipeline(self, device: torch.device) -> Any:
        """A pipeline of this shape, its weights drawn from the seed 0."""
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(0)
            unet = UNet2DConditionModel(sample_size=self.resolution // 8, **self.unet)
            vae = AutoencoderKL(latent_channels=4, sample_size=self.resolution, **VAE, **self.vae)
            encoders = [text_encoder(*sizes, pooled=place == 1) for place, sizes in enumerate(self.texts)]
        scheduler: Any = DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        )
        tokenizer = byte_tokenizer()
        if self.is_xl:
            first, second = encoders
            return StableDiffusionXLPipeline(
                vae, first, second, tokenizer, tokenizer, unet, scheduler, add_watermarker=False
            )
        return StableDiffusionPipeline(
            vae,
            encoders[0],
            tokenizer,
            unet,
            scheduler,
            safety_checker=None,  # type: ignore[arg-type]
            feature_extractor=None,  # type: ignore[arg-type]
            requires_safety_checker=False,
        )


def text_encoder(width: int, layers: int, heads: int, pooled: bool) -> Any:
    """A CLIP text encoder with SD's vocabulary; the second one of SDXL has a pooled state."""
    tokenizer: Any = byte_tokenizer()
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if pooled else CLIPTextModel)(config)


@cache
def byte_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer without merges: how many tokens a prompt has matters here, not which."""
    alphabet = sorted(ByteLevel.alphabet())
    symbols = [*alphabet, *(f"{byte}</w>" for byte in alphabet), "<|startoftext|>", "<|endoftext|>"]
    with TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps({symbol: i for i, symbol in enumerate(symbols)}))
        (Path(folder) / "merges.txt").write_text("#version: 0.2\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=CONTEXT)


SHAPES = {
    # The UNet of the tiny world.
    "tiny": Shape(
        64,
        CROSS
        | {
            "cross_attention_dim": 96,
            "block_out_channels": (64, 96),
            "attention_head_dim": (2, 3),
            "layers_per_block": 1,
            "norm_num_groups": 16,
        },
        {"block_out_channels": (16, 32, 48, 48), "norm_num_groups": 8},
        ((96, 2, 2),),
    ),
    # SD1.5 at a quarter of its widths and half its resolution: its parts' costs relate as SD1.5's do.
    "quarter": Shape(
        256,
        {
            "cross_attention_dim": 192,
            "block_out_channels": (80, 160, 320, 320),
            "attention_head_dim": 2,
            "norm_num_groups": 8,
        },
        {"block_out_channels": (32, 64, 128, 128), "layers_per_block": 2, "norm_num_groups": 8},
        ((192, 12, 3),),
    ),
    "sd15": Shape(
        512,
        {"cross_attention_dim": 768},
        {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
        ((768, 12, 12),),
    ),
    "sdxl": Shape(
        1024,
        {
            "cross_attention_dim": 2048,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (320, 640, 1280),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "scaling_factor": 0.13025},
        ((768, 12, 12), (1280, 32, 20)),
    ),
}
