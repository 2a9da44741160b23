from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload_with_hook
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionPipeline
from tiny import moved, pipeline, pipeline_xl, unet, unet_xl
from tiny_negatives import saved_difference, saved_lora
from torch import Tensor, nn

from diffpo.diffusion.pipelines.negative import StableDiffusionNegativePipeline, StableDiffusionXLNegativePipeline
from diffpo.diffusion.pipelines.negative_networks import NEGATIVE

PROMPT = "a red circle on the left"
STEPS, GUIDANCE = 3, 3.0


def drawn(pipe: Any, n: int = 2, guidance: float = GUIDANCE, **options) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    images = n * options.get("num_images_per_prompt", 1)
    return pipe(
        [PROMPT] * n,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        output_type="latent",
        generator=[torch.Generator().manual_seed(i) for i in range(images)],
        **options,
    ).images


def by_hand(pipe: StableDiffusionPipeline, negative: nn.Module, n: int = 2, away_from: str = "") -> Tensor:
    """Two networks, called one after the other in a loop of our own."""
    states = [pipe.encode_prompt([text] * n, "cpu", 1, False)[0] for text in (PROMPT, away_from)]
    latents = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(n)])
    pipe.scheduler.set_timesteps(STEPS)
    latents = latents * pipe.scheduler.init_noise_sigma
    with torch.no_grad():
        for t in pipe.scheduler.timesteps:
            x = pipe.scheduler.scale_model_input(latents, t)
            toward = pipe.unet(x, t, encoder_hidden_states=states[0]).sample
            away = negative(x, t, encoder_hidden_states=states[1]).sample
            latents = pipe.scheduler.step(away + GUIDANCE * (toward - away), t, latents).prev_sample
    return latents


def with_negative(network: nn.Module | None = None, **schedule) -> StableDiffusionNegativePipeline:
    return StableDiffusionNegativePipeline.from_pipe(pipeline(**schedule), negative_unet=network or moved(unet()))


def spied(network: nn.Module) -> list[tuple[int, Tensor]]:
    """Rows and text states of every call."""
    calls: list[tuple[int, Tensor]] = []
    network.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((len(args[0]), kwargs["encoder_hidden_states"])), with_kwargs=True
    )
    return calls


@pytest.mark.parametrize("scheduler", [None, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_equals_a_loop_over_two_networks(scheduler):
    pipe = with_negative()
    if scheduler:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    assert torch.equal(drawn(pipe), by_hand(pipe, pipe.negative_unet))
    assert torch.allclose(drawn(pipe, n=1), by_hand(pipe, pipe.negative_unet, n=1), atol=2e-4)
    blue = drawn(pipe, negative_prompt=["blue"] * 2)
    assert torch.equal(blue, by_hand(pipe, pipe.negative_unet, away_from="blue"))


@pytest.mark.parametrize("options", [{}, {"num_images_per_prompt": 2}, {"guidance_rescale": 0.7}])
def test_the_positive_as_negative_is_the_stock_pipeline(options):
    stock = pipeline()
    expected = drawn(stock, **options)
    for network in (stock.unet, unet()):
        pipe = StableDiffusionNegativePipeline.from_pipe(stock, negative_unet=network)
        assert torch.allclose(drawn(pipe, **options), expected, atol=1e-5)


def test_without_a_negative_it_is_the_stock_pipeline_bit_for_bit():
    stock = pipeline()
    assert torch.equal(drawn(StableDiffusionNegativePipeline.from_pipe(stock)), drawn(stock))


def test_sdxl_splits_pooled_states_and_sizes():
    stock = pipeline_xl()
    kind = StableDiffusionXLNegativePipeline
    assert torch.equal(drawn(kind.from_pipe(stock)), drawn(stock))
    assert torch.allclose(drawn(kind.from_pipe(stock, negative_unet=unet_xl())), drawn(stock), atol=1e-5)
    other = drawn(kind.from_pipe(stock, negative_unet=moved(unet_xl())))
    assert not torch.allclose(other, drawn(stock), atol=1e-2)


def test_neither_network_sees_the_texts_of_the_other():
    pipe = with_negative()
    toward, away = spied(pipe.unet), spied(pipe.negative_unet)
    drawn(pipe, negative_prompt=["blue"] * 2)
    states = [pipe.encode_prompt([text] * 2, "cpu", 1, False)[0] for text in (PROMPT, "blue")]
    for calls, state in zip((toward, away), states, strict=True):
        assert len(calls) == STEPS
        assert all(rows == 2 and torch.equal(seen, state) for rows, seen in calls)


def test_without_guidance_the_negative_is_not_called():
    pipe = with_negative()
    away = spied(pipe.negative_unet)
    assert torch.equal(drawn(pipe, guidance=1.0), drawn(pipeline(), guidance=1.0))
    assert away == []


def test_guidance_switched_off_on_the_way_ends_the_negatives_calls():
    pipe = with_negative()
    toward, away = spied(pipe.unet), spied(pipe.negative_unet)

    def off(pipe: Any, step: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        pipe._guidance_scale = 1.0
        return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[-1]} if step == 0 else {}

    drawn(pipe, callback_on_step_end=off, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    assert (len(toward), len(away)) == (STEPS, 1)


def test_bfloat16_goes_through():
    assert drawn(with_negative().to(torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "offload",
    [lambda pipe: cpu_offload_with_hook(pipe.unet, "cpu"), lambda pipe: pipe.enable_model_cpu_offload(device="cpu")],
)
def test_offloading_hooks_survive_two_calls(offload: Callable[[Any], object]):
    expected = drawn(with_negative())
    pipe = with_negative()
    offload(pipe)
    for _ in range(2):
        assert torch.equal(drawn(pipe), expected)
    pipe.unet._hf_hook  # noqa: B018
    assert "negative_unet" not in pipe.model_cpu_offload_seq


def test_a_negative_loaded_into_an_offloaded_pipeline_is_offloaded(tmp_path):
    pipe = StableDiffusionNegativePipeline.from_pipe(pipeline())
    pipe.enable_model_cpu_offload(device="cpu")
    pipe.load_negative(saved_lora(tmp_path))
    assert type(pipe.negative_unet._hf_hook) is type(pipe.unet._hf_hook)
    expected = drawn(pipe)
    assert torch.equal(drawn(pipe), expected)


def test_a_saved_pipeline_loads_with_its_negative_and_as_the_plain_one(tmp_path):
    pipe = with_negative()
    pipe.save_pretrained(tmp_path)
    assert torch.equal(drawn(StableDiffusionNegativePipeline.from_pretrained(tmp_path)), drawn(pipe))
    assert torch.equal(drawn(StableDiffusionPipeline.from_pretrained(tmp_path)), drawn(pipeline()))


def test_a_shared_lora_equals_a_second_network_and_leaves_the_first_as_it_was(tmp_path):
    shared, apart = (StableDiffusionNegativePipeline.from_pipe(pipeline()) for _ in range(2))
    shared.load_negative(saved_lora(tmp_path), mix=0.7, shared=True)
    apart.load_negative(str(tmp_path), mix=0.7)
    assert torch.allclose(drawn(shared), drawn(apart), atol=1e-5)
    assert torch.equal(drawn(shared, guidance=1.0), drawn(pipeline(), guidance=1.0))
    shared.set_negative_adapters(NEGATIVE, 0.0)
    assert torch.allclose(drawn(shared), drawn(pipeline()), atol=1e-5)
    shared.unload_negative()
    assert torch.equal(drawn(shared), drawn(pipeline()))
    assert shared.unet.state_dict().keys() == unet().state_dict().keys()


def test_a_difference_is_added_to_the_present_network(tmp_path):
    pipe = StableDiffusionNegativePipeline.from_pipe(pipeline())
    pipe.load_negative(saved_difference(tmp_path, by=0.05))
    assert torch.allclose(drawn(pipe), drawn(with_negative(moved(unet(), 0.05))), atol=1e-3)
