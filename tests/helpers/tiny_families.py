"""Tiny random pipelines of transformers, whole: text encoders and tokenizers included, made without network."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
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
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=longest, **special)
    tokenizer.chat_template = CHAT
    return tokenizer


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


IDS = {"vocab_size": VOCABULARY, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
DYNAMIC = {
    **{"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0},
    **{"base_image_seq_len": 256, "max_image_seq_len": 4096},
}
FLUX_VAE = SD3_VAE | {"shift_factor": 0.1159, "scaling_factor": 0.3611}


@seeded
def qwen3(kind: Any = Qwen3Model, layers: int = 2) -> Any:
    config = Qwen3Config(**SMALL | IDS, num_hidden_layers=layers, head_dim=8, max_position_embeddings=2048)
    return kind(config).eval()


@seeded
def qwen_vl() -> Qwen2_5_VLForConditionalGeneration:
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}
    text = SMALL | IDS | {"num_hidden_layers": 2, "rope_scaling": rope, "rope_theta": 1e6}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    tokens = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
    ).eval()


@seeded
def gemma() -> Gemma2Model:
    small = {"head_dim": 16, "hidden_size": 8, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 2048}
    return Gemma2Model(Gemma2Config(**small | heads | IDS, attn_implementation="eager")).eval()


@seeded
def flux() -> FluxPipeline:
    network = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    return FluxPipeline(
        transformer=network,
        scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=kl(**FLUX_VAE),
        text_encoder=clip(),
        tokenizer=bytes_tokenizer(clip=True),
        text_encoder_2=t5(),
        tokenizer_2=bytes_tokenizer(512),
    )


@seeded
def chroma() -> ChromaPipeline:
    network = ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=16,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    return ChromaPipeline(
        transformer=network,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=kl(**FLUX_VAE),
        text_encoder=t5(),
        tokenizer=bytes_tokenizer(512),
    )


@seeded
def flux2_vae() -> AutoencoderKLFlux2:
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
    ).eval()
    with torch.no_grad():
        vae.bn.running_mean.copy_(torch.linspace(-0.3, 0.3, len(vae.bn.running_mean)))
        vae.bn.running_var.copy_(torch.linspace(0.5, 2.0, len(vae.bn.running_var)))
    return vae


@seeded
def flux2_network(guided: bool) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=256,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guided,
    )


@seeded
def mistral() -> Mistral3ForConditionalGeneration:
    text = SMALL | IDS | {"num_hidden_layers": 3, "head_dim": 8, "max_position_embeddings": 512}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"model_type": "pixtral", "head_dim": 8, "image_size": 32, "patch_size": 16}
    return Mistral3ForConditionalGeneration(
        Mistral3Config(text_config={"model_type": "mistral"} | text, vision_config=vision, image_token_index=4)
    ).eval()


def pixtral() -> Any:
    """A processor of pictures and prompts, as the published pipeline's tokenizer is."""
    pytest.importorskip("torchvision", reason="FLUX.2 dev's processor needs torchvision")
    tokenizer = bytes_tokenizer(512)
    return PixtralProcessor(PixtralImageProcessor(), tokenizer, chat_template=CHAT)


@seeded
def flux2() -> Flux2Pipeline:
    return Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=flux2_vae(),
        text_encoder=mistral(),
        tokenizer=pixtral(),
        transformer=flux2_network(guided=True),
    )


@seeded
def klein() -> Flux2KleinPipeline:
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC),
        vae=flux2_vae(),
        text_encoder=qwen3(Qwen3ForCausalLM, 3),
        tokenizer=bytes_tokenizer(512),
        transformer=flux2_network(guided=False),
        is_distilled=False,
    )


@seeded
def qwen_image() -> QwenImagePipeline:
    network = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 2.0, 0.7, 1.0],
    ).eval()
    shifted = {"max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02, "shift": 1.0}
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**DYNAMIC | shifted),
        vae=vae,
        text_encoder=qwen_vl(),
        tokenizer=bytes_tokenizer(1024),
        transformer=network,
    )


@seeded
def z_image() -> ZImagePipeline:
    network = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        qk_norm=True,
        cap_feat_dim=16,
        rope_theta=256.0,
        t_scale=1000.0,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 32, 32],
    )
    with torch.no_grad():  # torch.empty in the constructor
        network.x_pad_token.fill_(1.0)
        network.cap_pad_token.fill_(1.0)
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=kl(**FLUX_VAE),
        text_encoder=qwen3(),
        tokenizer=bytes_tokenizer(512),
        transformer=network,
    )


@seeded
def sana() -> SanaPipeline:
    network = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=8,
    )
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    ).eval()
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return SanaPipeline(
        tokenizer=bytes_tokenizer(300), text_encoder=gemma(), vae=vae, transformer=network, scheduler=scheduler
    )


@seeded
def pixart() -> PixArtSigmaPipeline:
    network = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        num_embeds_ada_norm=1000,
        use_additional_conditions=False,
    )
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.0001, beta_end=0.02, beta_schedule="linear", prediction_type="epsilon"
    )
    return PixArtSigmaPipeline(
        tokenizer=bytes_tokenizer(300),
        text_encoder=t5(),
        vae=kl(scaling_factor=0.13025),
        transformer=network,
        scheduler=scheduler,
    )
