import pytest
import torch
from tiny import WIDTH, moved, pipeline, unet
from tiny_negatives import saved_lora

from diffpo.core.refusal import Refusal
from diffpo.diffusion.pipelines.negative import StableDiffusionNegativePipeline

PICTURE = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(0))


def adapter(network: torch.nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """An IP-adapter of random weights for pictures of 8 numbers."""
    rng = torch.Generator().manual_seed(0)
    draw = lambda *shape: 0.3 * torch.randn(shape, generator=rng)  # noqa: E731
    layers = [module for name, module in network.named_modules() if name.endswith("attn2")]
    sizes = {1 + 2 * place: layer.to_k.out_features for place, layer in enumerate(layers)}
    projection = {"proj.weight": draw(4 * WIDTH, 8), "proj.bias": draw(4 * WIDTH)}
    return {
        "image_proj": projection | {"norm.weight": torch.ones(WIDTH), "norm.bias": torch.zeros(WIDTH)},
        "ip_adapter": {f"{i}.to_{x}_ip.weight": draw(size, WIDTH) for i, size in sizes.items() for x in "kv"},
    }


def with_adapter(pipe, scale: float = 0.7):
    pipe.set_progress_bar_config(disable=True)
    pipe.load_ip_adapter(adapter(unet()), subfolder="", weight_name="", image_encoder_folder=None)
    pipe.set_ip_adapter_scale(scale)
    return pipe


def drawn(pipe, picture: torch.Tensor = PICTURE) -> torch.Tensor:
    return pipe(
        ["a red circle"] * 2,
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="latent",
        ip_adapter_image_embeds=[torch.cat([torch.zeros_like(picture), picture])],
        generator=[torch.Generator().manual_seed(i) for i in range(2)],
    ).images


def negative(seed: int = 0):
    return StableDiffusionNegativePipeline.from_pipe(pipeline(), negative_unet=unet(seed))


def test_lists_of_picture_states_are_split_and_both_networks_have_the_adapter():
    stock = drawn(with_adapter(pipeline()))
    assert torch.allclose(drawn(with_adapter(negative())), stock, atol=1e-5)
    assert not torch.allclose(drawn(with_adapter(negative()), PICTURE * -1), stock, atol=1e-2)


def test_scale_and_removal_reach_both_networks():
    pipe = with_adapter(negative(), scale=0.25)
    scales = [
        [p.scale for name, p in network.attn_processors.items() if "attn2" in name]
        for network in (pipe.unet, pipe.negative_unet)
    ]
    assert scales[0] == scales[1] == [[0.25]] * len(scales[0])
    pipe.unload_ip_adapter()
    assert pipe.unet.config.encoder_hid_dim_type is pipe.negative_unet.config.encoder_hid_dim_type is None


def test_the_pipelines_unet_is_its_own_again():
    pipe = negative()
    own = pipe.unet
    assert with_adapter(pipe).unet is own


def test_a_copy_made_by_load_negative_has_the_adapter_too(tmp_path):
    pipe = with_adapter(StableDiffusionNegativePipeline.from_pipe(pipeline()))
    stock = drawn(pipe)
    pipe.load_negative(saved_lora(tmp_path, scale=0.0))
    assert torch.allclose(drawn(pipe), stock, atol=1e-5)


def test_an_adapter_of_one_network_only_is_refused():
    pipe = with_adapter(StableDiffusionNegativePipeline.from_pipe(pipeline()))
    pipe.register_modules(negative_unet=moved(unet()))
    with pytest.raises(Refusal, match="IP-adapter; load it after the negative"):
        drawn(pipe)
