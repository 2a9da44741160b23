"""Negative guidance where the network is a transformer: of videos in one batch (CogVideoX), in named calls (Flux)."""

from math import cos, pi
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from safetensors.torch import save_file
from tiny import moved
from tiny_loras import layers_of, peft_of, written
from torch import Tensor, nn

from diffpo.core.refusal import Refusal
from diffpo.diffusion.pipelines.negative import NegativeGuidanceMixin
from diffpo.diffusion.pipelines.negative_networks import NEGATIVE
from diffpo.lora.layers import require_put


class NegativeVideo(NegativeGuidanceMixin, CogVideoXPipeline):
    pass


class NegativeFlux(NegativeGuidanceMixin, FluxPipeline):
    pass


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(kind: Any, **config) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(**config)


def video_transformer() -> CogVideoXTransformer3DModel:
    return seeded(
        CogVideoXTransformer3DModel,
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=4,
        text_embed_dim=8,
        num_layers=1,
        sample_width=4,
        sample_height=4,
        sample_frames=5,
        max_text_seq_length=4,
        use_rotary_positional_embeddings=True,
    )


def flux_transformer(distilled: bool = False) -> FluxTransformer2DModel:
    return seeded(
        FluxTransformer2DModel,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        guidance_embeds=distilled,
        axes_dims_rope=(2, 2, 4),
    )


def video(kind: Any, **networks: nn.Module) -> Any:
    scheduler = CogVideoXDDIMScheduler()
    return kind(tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, **networks)


def flux(kind: Any, **networks: nn.Module) -> Any:
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    return kind(scheduler=FlowMatchEulerDiscreteScheduler(), **parts, **networks)


def filmed(pipe: Any, **options) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        prompt_embeds=normal(0, 1, 4, 8),
        negative_prompt_embeds=normal(1, 1, 4, 8),
        latents=normal(2, 1, 2, 4, 4, 4),
        height=32,
        width=32,
        num_frames=5,
        num_inference_steps=2,
        output_type="latent",
        **{"guidance_scale": 3.0} | options,
    ).frames


def painted(pipe: Any, **options) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        prompt_embeds=normal(0, 1, 4, 8),
        pooled_prompt_embeds=normal(1, 1, 8),
        negative_prompt_embeds=normal(2, 1, 4, 8),
        negative_pooled_prompt_embeds=normal(3, 1, 8),
        latents=normal(4, 1, 4, 4),
        height=32,
        width=32,
        num_inference_steps=2,
        output_type="latent",
        **{"true_cfg_scale": 3.0} | options,
    ).images


def counted(network: nn.Module) -> list[int]:
    """Rows of every call."""
    calls: list[int] = []
    network.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    return calls


CASES = [(filmed, video, CogVideoXPipeline, NegativeVideo, video_transformer)]
CASES += [(painted, flux, FluxPipeline, NegativeFlux, flux_transformer)]
BOTH = pytest.mark.parametrize(("drawn", "made", "stock", "negative", "transformer"), CASES, ids=["video", "flux"])


@BOTH
def test_the_positive_as_negative_is_the_stock_pipeline(drawn, made, stock, negative, transformer):
    expected = drawn(made(stock, transformer=transformer()))
    assert torch.equal(drawn(made(negative, transformer=transformer())), expected)
    both = made(negative, transformer=transformer(), negative_transformer=transformer())
    assert torch.allclose(drawn(both), expected, atol=1e-5)


@BOTH
def test_each_network_answers_once_per_step(drawn, made, stock, negative, transformer):
    other = moved(transformer())
    pipe = made(negative, transformer=transformer(), negative_transformer=other)
    calls = counted(pipe.transformer), counted(other)
    expected = drawn(made(stock, transformer=transformer()))
    assert not torch.allclose(drawn(pipe), expected, atol=1e-3)
    assert calls == ([1, 1], [1, 1])


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_video_equals_a_loop_over_two_networks(dynamic):
    pipe = video(NegativeVideo, transformer=video_transformer(), negative_transformer=moved(video_transformer()))
    latents, scheduler = normal(2, 1, 2, 4, 4, 4), CogVideoXDDIMScheduler()
    scheduler.set_timesteps(2)
    rotary = pipe._prepare_rotary_positional_embeddings(32, 32, 2, torch.device("cpu"))
    found = filmed(pipe, use_dynamic_cfg=dynamic)
    with torch.no_grad():
        for t in scheduler.timesteps:
            toward, away = (
                network(latents, normal(seed, 1, 4, 8), t.expand(1), image_rotary_emb=rotary).sample
                for network, seed in ((pipe.transformer, 0), (pipe.negative_transformer, 1))
            )
            scale = 1 + 3.0 * (1 - cos(pi * ((2 - t.item()) / 2) ** 5.0)) / 2
            guided = away + (scale if dynamic else 3.0) * (toward - away)
            latents = scheduler.step(guided, t, latents).prev_sample
    assert torch.allclose(found, latents, atol=1e-4)


def test_flux_without_true_guidance_does_not_pass_over_the_negative():
    parts = {"transformer": flux_transformer(True), "negative_transformer": moved(flux_transformer(True))}
    with pytest.raises(Refusal, match="distilled into its network"):
        painted(flux(NegativeFlux, **parts), true_cfg_scale=1.0)


@BOTH
def test_a_lora_of_a_transformer_is_a_negative_whole(tmp_path, drawn, made, stock, negative, transformer):
    layers = layers_of(transformer(), ("to_q", "to_v"), alphas=(2.0,))
    save_file(written(layers, peft_of("transformer.")), tmp_path / "lora.safetensors")
    expected = drawn(made(stock, transformer=transformer()))
    pipe = made(negative, transformer=transformer())
    pipe.load_negative(str(tmp_path / "lora.safetensors"), shared=True)
    require_put(pipe.transformer, layers, NEGATIVE)
    assert not torch.allclose(drawn(pipe), expected, atol=1e-3)
    save_file(written({"blocks.9": layers.popitem()[1]}, peft_of("transformer.")), tmp_path / "lora.safetensors")
    with pytest.raises(Refusal, match="trained for another .*: the base has no layer blocks.9"):
        pipe.load_negative(str(tmp_path / "lora.safetensors"))
