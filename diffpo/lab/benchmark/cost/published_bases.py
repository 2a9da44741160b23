"""Bases of the real sizes, as data: configs of networks and text encoders as their repositories on the hub have them.

Sources: `transformer/config.json` and `text_encoder*/config.json` of each repository, compared with the sizes that
github.com/huggingface/diffusers (scripts/convert_flux2_to_diffusers.py, and the defaults of its classes) and
github.com/filipstrand/mflux (model_config.py) have. Counts are those that their publishers name.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from diffpo.diffusion.base.family import Family
from diffpo.diffusion.data.batches import Conditioning
from diffpo.diffusion.families.chroma import Chroma
from diffpo.diffusion.families.flux import Flux
from diffpo.diffusion.families.flux2 import Flux2
from diffpo.diffusion.families.flux2_klein import Flux2Klein
from diffpo.diffusion.families.pixart_sigma import PixArtSigma
from diffpo.diffusion.families.qwen_image import QwenImage
from diffpo.diffusion.families.sana import Sana
from diffpo.diffusion.families.sd3 import SD3
from diffpo.diffusion.families.z_image import ZImage


@dataclass(frozen=True, eq=False)
class PublishedBase:
    """What is counted of a base.

    Attributes:
        repository: on the hub.
        network: arguments of the family's network.
        encoders: class and config of each text encoder.
        billions: of parameters, as its publishers name them.
        latents: of a picture of 1024 x 1024 pixels.
        states: shape of each state of one prompt.
        depths: names of the arguments that count blocks, those that come last at the end.
        mask: tokens that a mask of the prompt tells apart; 1 is one for all of them, 0 is no mask.
    """

    repository: str
    family: Family
    network: dict[str, Any]
    encoders: tuple[tuple[Any, Any], ...]
    billions: float
    latents: tuple[int, ...]
    states: dict[str, tuple[int, ...]]
    depths: tuple[str, ...] = ("num_layers",)
    mask: int = 0


class UnpaddedZImage(ZImage):
    """Told prompts of one length: how many tokens a mask picks is no number that can be known on paper."""

    def __call__(self, network: nn.Module, x_t: Tensor, told: Tensor, cond: Conditioning) -> Tensor:
        prompts = list(cond.states["prompt"])
        return torch.stack(network(list(x_t[:, :, None]), told / 1000, prompts, return_dict=False)[0])[:, :, 0]


def qwen3(width: int, inner: int, kind: Any, tied: bool = True) -> tuple[Any, Any]:
    heads: dict[str, Any] = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    sizes: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": 36,
        "vocab_size": 151936,
    }
    return kind, Qwen3Config(**sizes, **heads, tie_word_embeddings=tied)


def clip(width: int, layers: int, heads: int, kind: Any) -> tuple[Any, Any]:
    sizes: dict[str, Any] = {"hidden_size": width, "intermediate_size": 4 * width, "projection_dim": width}
    return kind, CLIPTextConfig(**sizes, num_hidden_layers=layers, num_attention_heads=heads)


T5_XXL = (
    T5EncoderModel,
    T5Config(d_model=4096, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"),
)
CLIP_L = clip(768, 12, 12, CLIPTextModel)
CLIPS = (clip(768, 12, 12, CLIPTextModelWithProjection), clip(1280, 32, 20, CLIPTextModelWithProjection))
GEMMA_2_2B = (Gemma2Model, Gemma2Config())
QWEN_VL_7B = (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLConfig(
        text_config={
            **{"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064},
            **{"num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False},
        },
        vision_config={"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
    ),
)
MISTRAL_SMALL = (
    Mistral3ForConditionalGeneration,
    Mistral3Config(
        text_config={
            **{"model_type": "mistral", "hidden_size": 5120, "intermediate_size": 32768, "num_hidden_layers": 40},
            **{"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 131072},
        },
        vision_config={
            **{"model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24},
            **{"num_attention_heads": 16, "head_dim": 64, "patch_size": 14, "image_size": 1540},
        },
        tie_word_embeddings=False,
    ),
)
SD3_STATES = {"prompt": (333, 4096), "pooled": (2048,)}

BASES = {
    "sd35-medium": PublishedBase(
        "stabilityai/stable-diffusion-3.5-medium",
        SD3(),
        {
            **{"sample_size": 128, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536},
            **{"pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"},
        },
        (*CLIPS, T5_XXL),
        2.5,
        (16, 128, 128),
        SD3_STATES,
    ),
    "sd35-large": PublishedBase(
        "stabilityai/stable-diffusion-3.5-large",
        SD3(),
        {
            **{"sample_size": 128, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432},
            **{"pos_embed_max_size": 192, "qk_norm": "rms_norm"},
        },
        (*CLIPS, T5_XXL),
        8.1,
        (16, 128, 128),
        SD3_STATES,
    ),
    "flux1-dev": PublishedBase(
        "black-forest-labs/FLUX.1-dev",
        Flux(),
        {"guidance_embeds": True},
        (CLIP_L, T5_XXL),
        12.0,
        (16, 128, 128),
        {"prompt": (512, 4096), "pooled": (768,)},
        ("num_layers", "num_single_layers"),
    ),
    "chroma1-hd": PublishedBase(
        "lodestones/Chroma1-HD",
        Chroma(),
        {},
        (T5_XXL,),
        8.9,
        (16, 128, 128),
        {"prompt": (512, 4096), "bias": (512,)},
        ("num_layers", "num_single_layers"),
    ),
    "flux2-dev": PublishedBase(
        "black-forest-labs/FLUX.2-dev",
        Flux2(),
        {},
        (MISTRAL_SMALL,),
        32.0,
        (128, 64, 64),
        {"prompt": (512, 15360)},
        ("num_layers", "num_single_layers"),
    ),
    "klein-4b": PublishedBase(
        "black-forest-labs/FLUX.2-klein-base-4B",
        Flux2Klein(),
        {
            **{"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24},
            **{"joint_attention_dim": 7680, "guidance_embeds": False},
        },
        (qwen3(2560, 9728, Qwen3ForCausalLM),),
        4.0,
        (128, 64, 64),
        {"prompt": (512, 7680)},
        ("num_layers", "num_single_layers"),
    ),
    "klein-9b": PublishedBase(
        "black-forest-labs/FLUX.2-klein-base-9B",
        Flux2Klein(),
        {
            **{"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32},
            **{"joint_attention_dim": 12288, "guidance_embeds": False},
        },
        (qwen3(4096, 12288, Qwen3ForCausalLM, tied=False),),
        9.0,
        (128, 64, 64),
        {"prompt": (512, 12288)},
        ("num_layers", "num_single_layers"),
    ),
    "qwen-image": PublishedBase(
        "Qwen/Qwen-Image",
        QwenImage(),
        {},
        (QWEN_VL_7B,),
        20.0,
        (16, 128, 128),
        {"prompt": (512, 3584)},
        mask=1,
    ),
    "z-image": PublishedBase(
        "Tongyi-MAI/Z-Image",
        UnpaddedZImage(),
        {},
        (qwen3(2560, 9728, Qwen3Model),),
        6.0,
        (16, 128, 128),
        {"prompt": (512, 2560)},
        ("n_refiner_layers", "n_layers"),
    ),
    "sana-1600m": PublishedBase(
        "Efficient-Large-Model/Sana_1600M_1024px_diffusers",
        Sana(),
        {},
        (GEMMA_2_2B,),
        1.6,
        (32, 32, 32),
        {"prompt": (300, 2304)},
        mask=300,
    ),
    "pixart-sigma": PublishedBase(
        "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
        PixArtSigma(),
        {"caption_channels": 4096, "use_additional_conditions": False, "interpolation_scale": 2},
        (T5_XXL,),
        0.6,
        (4, 128, 128),
        {"prompt": (300, 4096)},
        mask=300,
    ),
}
