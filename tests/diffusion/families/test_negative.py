"""Negative guidance on every family that is guided in two halves: each network hears its own half, in its own way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tiny import moved
from tiny_families import chroma, flux, flux2, klein, pixart, qwen_image, sana, sd3, z_image
from torch import Tensor, nn

from diffpo.core.refusal import Refusal
from diffpo.diffusion.pipelines.negative import NegativeGuidanceMixin

TOLD, STEPS = "a red circle", 2


@dataclass(frozen=True)
class Way:
    """How a family is guided.

    Attributes:
        call: arguments of the pipeline.
        off: those that switch guidance off.
        away: the negative prompt; None where the pipeline takes none, but the empty one.
    """

    make: Callable[[], Any]
    call: dict[str, Any]
    off: dict[str, Any]
    away: str | None = "two"


CFG, UNGUIDED = {"guidance_scale": 3.0}, {"guidance_scale": 1.0}
TRUE_CFG, NO_TRUE_CFG = {"true_cfg_scale": 3.0}, {"true_cfg_scale": 1.0}
SHORT = {"max_sequence_length": 32}
PLAIN = {"use_resolution_binning": False, "clean_caption": False} | SHORT
WAYS = {
    "SD3": Way(lambda: sd3(with_t5=False), CFG, UNGUIDED),
    "FLUX.1": Way(flux, TRUE_CFG | SHORT, NO_TRUE_CFG),
    "FLUX.2 klein": Way(klein, CFG | {"text_encoder_out_layers": (1, 2, 3)} | SHORT, UNGUIDED, away=None),
    "Chroma": Way(chroma, CFG | SHORT, UNGUIDED),
    "Qwen-Image": Way(qwen_image, TRUE_CFG, NO_TRUE_CFG),
    "Z-Image": Way(z_image, CFG, {"guidance_scale": 0.0}),
    "Sana": Way(sana, CFG | PLAIN | {"complex_human_instruction": None}, UNGUIDED),
    "PixArt-Sigma": Way(pixart, CFG | PLAIN, UNGUIDED),
}


@pytest.fixture(scope="module", params=WAYS.values(), ids=WAYS)
def way(request) -> Way:
    return request.param


@pytest.fixture(scope="module")
def stock(way) -> Any:
    return way.make()


def with_negative(stock: Any, negative: nn.Module | None) -> Any:
    kind: Any = type("Negative", (NegativeGuidanceMixin, type(stock)), {})
    return kind.from_pipe(stock, negative_transformer=negative)


def copied(network: nn.Module) -> Any:
    twin = type(network).from_config(network.config)
    twin.load_state_dict(network.state_dict())
    return twin.eval()


def draw(way: Way, pipe: Any, told: str = TOLD, away: str | None = None, **more: Any) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(0)
    size = {"height": 64, "width": 64, "generator": rng, "output_type": "latent", "num_inference_steps": STEPS}
    negative = {} if way.away is None else {"negative_prompt": away or way.away}
    return pipe(prompt=told, **negative | size | way.call | more).images


@contextmanager
def heard(network: Any) -> Iterator[list[list[Tensor]]]:
    """States of the prompts of each call, one for each row."""
    calls: list[list[Tensor]] = []

    def listen(_: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        calls.append(list(kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]))

    hook = network.register_forward_pre_hook(listen, with_kwargs=True)
    yield calls
    hook.remove()


def test_the_positive_as_its_own_negative_is_the_stock_pipeline(way, stock):
    both = with_negative(stock, copied(stock.transformer))
    torch.testing.assert_close(draw(way, both), draw(way, stock), rtol=1e-4, atol=1e-5)


def test_each_network_hears_its_own_prompt_once_a_step(way, stock):
    other = moved(copied(stock.transformer))
    pipe = with_negative(stock, other)
    with heard(pipe.transformer) as first, heard(other) as away:
        found = draw(way, pipe)
    with heard(pipe.transformer) as exchanged, heard(other) as told:
        draw(way, pipe, way.away or "", TOLD)
    assert [len(calls) for calls in (first, away, exchanged, told)] == [STEPS] * 4
    same = [(away, exchanged)] if way.away is None else [(first, told), (away, exchanged)]
    for one, other_way_round in same:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(one[0], other_way_round[0], strict=True))
    assert first[0][0].shape != away[0][0].shape or not torch.equal(first[0][0], away[0][0])
    assert (found - draw(way, stock)).abs().max() > 1e-3


def test_without_guidance_the_negative_is_not_called(way, stock):
    other = moved(copied(stock.transformer))
    pipe, off = with_negative(stock, other), way.off
    if stock.transformer.config.get("guidance_embeds"):
        with pytest.raises(Refusal, match="distilled into its network"):
            draw(way, pipe, **off)
        return
    with heard(other) as calls:
        found = draw(way, pipe, **off)
    assert not calls
    assert torch.equal(found, draw(way, stock, **off))


def test_a_pipeline_without_true_guidance_is_refused():
    stock = flux2()
    with pytest.raises(Refusal, match=r"distilled into its network \(guidance_embeds\): .* else unload_negative"):
        with_negative(stock, copied(stock.transformer))(prompt=TOLD, height=64, width=64, num_inference_steps=1)


def test_true_guidance_without_a_negative_prompt_is_none_and_refused():
    stock = qwen_image()
    pipe = with_negative(stock, moved(copied(stock.transformer)))
    with pytest.raises(Refusal, match=r'true_cfg_scale 4 guides nothing without .*; pass negative_prompt=" "'):
        pipe(prompt=TOLD, height=64, width=64, num_inference_steps=1)
