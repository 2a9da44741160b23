"""Tiny random pipelines of transformers, whole: text encoders and tokenizers included, made without network."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

VOCABULARY = 259
SPECIAL = {"<pad>": 0, "</s>": 1, "<s>": 2}


def seeded(make: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(make)
    def made(*args: Any, **kwargs: Any) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return make(*args, **kwargs)

    return made


def bytes_tokenizer(longest: int = 24, clip: bool = False) -> PreTrainedTokenizerFast:
    """One token per byte, and three special ones."""
    vocab = {c: i + len(SPECIAL) for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))} | SPECIAL
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    single = "<s> $A </s>" if clip else "$A </s>"
    core.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 2), ("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=longest, **special)


@seeded
def t5(width: int = 32) -> T5EncoderModel:
    ids = {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return T5EncoderModel(
        T5Config(d_model=width, d_kv=8, d_ff=37, num_layers=1, num_heads=4, dropout_rate=0.0, **ids)
    ).eval()


@seeded
def clip(kind: Any = CLIPTextModel, width: int = 32) -> Any:
    ids = {"vocab_size": VOCABULARY, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    size = {"hidden_size": width, "intermediate_size": 37, "projection_dim": width, "max_position_embeddings": 24}
    return kind(CLIPTextConfig(num_hidden_layers=2, num_attention_heads=4, **size, **ids)).eval()


@seeded
def kl(latents: int = 4, **more: Any) -> AutoencoderKL:
    """A VAE of pictures whose sides are eight times those of their latents."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=latents,
        sample_size=64,
        **more,
    ).eval()


SD3_VAE = {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.0609, "scaling_factor": 1.5305}


@seeded
def sd3(with_t5: bool = True) -> StableDiffusion3Pipeline:
    network = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=network,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl(**SD3_VAE),
        text_encoder=clip(CLIPTextModelWithProjection),
        tokenizer=bytes_tokenizer(clip=True),
        text_encoder_2=clip(CLIPTextModelWithProjection),
        tokenizer_2=bytes_tokenizer(clip=True),
        text_encoder_3=t5(64) if with_t5 else None,
        tokenizer_3=bytes_tokenizer(256) if with_t5 else None,
    )
