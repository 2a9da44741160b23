import importlib.util

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from tiny import image_batch, unet

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.attention import FlashAttention, attend_unet


def output(network) -> torch.Tensor:
    raw = image_batch()
    with torch.no_grad():
        return network(raw.latents[0], torch.full((3,), 500), raw.cond.states["prompt"][0]).sample


@pytest.mark.parametrize(("name", "kernel"), [("native", AttnProcessor2_0), ("flash", FlashAttention)])
def test_each_kernel_is_really_used_and_computes_the_same(name, kernel):
    network = unet()
    before = output(network)
    attend_unet(network, name)
    assert {type(processor) for processor in network.attn_processors.values()} == {kernel}
    torch.testing.assert_close(output(network), before)


@pytest.mark.skipif(importlib.util.find_spec("xformers") is not None, reason="xformers is installed")
def test_absent_xformers_is_one_line():
    with pytest.raises(Refusal, match="base.attention xformers cannot be used .*; pip install xformers") as caught:
        attend_unet(unet(), "xformers")
    assert "\n" not in str(caught.value)
