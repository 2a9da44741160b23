"""What a negative pipeline refuses, each in one line with a remedy."""

import pytest
import torch
from tiny import pipeline, unet
from tiny_negatives import saved_lora

from diffpo.core.refusal import Refusal
from diffpo.diffusion.pipelines.negative import StableDiffusionNegativePipeline, require_unconditional_half
from diffpo.diffusion.pipelines.negative_networks import NEGATIVE


def bare() -> StableDiffusionNegativePipeline:
    pipe = StableDiffusionNegativePipeline.from_pipe(pipeline())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_another_architecture_is_refused_at_once():
    with pytest.raises(Refusal, match=r"negative_unet is for another architecture: its .*to_k\.weight is \(8, 8\)"):
        StableDiffusionNegativePipeline.from_pipe(pipeline(), negative_unet=unet(cross_attention_dim=8))


def test_distilled_guidance_is_explained():
    with pytest.raises(Refusal, match="time_cond_proj_dim, as in LCM"):
        require_unconditional_half({"time_cond_proj_dim": 256}, {})
    asked = {"true_cfg_scale": 4.0, "negative_prompt": ""}
    require_unconditional_half({"guidance_embeds": True}, asked)
    for short in ({}, asked | {"true_cfg_scale": 1.0}, asked | {"negative_prompt": None}):
        with pytest.raises(Refusal, match="pass true_cfg_scale > 1 and a negative_prompt"):
            require_unconditional_half({"guidance_embeds": True}, short)


def test_a_distilled_pipeline_is_refused_when_called_with_a_negative_only():
    stock = pipeline()
    stock.unet = unet(time_cond_proj_dim=8)
    call = {"prompt": "red", "num_inference_steps": 1, "output_type": "latent"}
    StableDiffusionNegativePipeline.from_pipe(stock)(**call)
    pipe = StableDiffusionNegativePipeline.from_pipe(stock, negative_unet=unet(1, time_cond_proj_dim=8))
    with pytest.raises(Refusal, match="take an undistilled base"):
        pipe(**call)


def test_mix_and_shared_are_refused_where_they_mean_nothing(tmp_path):
    unet().save_pretrained(tmp_path)
    with pytest.raises(Refusal, match=r"a whole network, which mix=0\.5 does not apply to"):
        bare().load_negative(str(tmp_path), mix=0.5)
    with pytest.raises(Refusal, match="holds no LoRA, so no network can be shared"):
        bare().load_negative(str(tmp_path), shared=True)


def test_a_mix_that_was_never_published_is_warned_of(tmp_path):
    with pytest.warns(UserWarning, match=r"mix is 1\.5; the published range is \[0, 1\]"):
        bare().load_negative(saved_lora(tmp_path), mix=1.5)


def test_a_shared_negative_cannot_be_saved_with_the_pipeline(tmp_path):
    pipe = bare()
    pipe.load_negative(saved_lora(tmp_path), shared=True)
    with pytest.raises(Refusal, match="load it with shared=False"):
        pipe.save_pretrained(tmp_path / "saved")


def test_adapters_that_are_gone_or_fused_are_not_passed_over(tmp_path):
    pipe = bare()
    pipe.load_negative(saved_lora(tmp_path), shared=True)
    with pytest.raises(Refusal, match="no adapter 'style'; loaded are negative"):
        pipe.set_negative_adapters("style")
    pipe.unet.fuse_lora(adapter_names=[NEGATIVE])
    with pytest.raises(Refusal, match="fused into the network"), torch.no_grad():
        pipe("red", num_inference_steps=1)
    pipe.unload_lora_weights()
    with pytest.raises(Refusal, match="'negative' of the negative half is unloaded; call load_negative again"):
        pipe("red", num_inference_steps=1)
