import pytest

from diffpo.lab.benchmark.ways.shapes import SHAPES, Shape

UNET = {
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
    "block_out_channels": (16,),
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
VAE = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4}


@pytest.fixture(scope="session", autouse=True)
def _tinier_than_tiny():
    """Under "tiny", networks of the tests' size; most of what is tested is who is called how often."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "tiny", Shape(64, UNET, VAE, ((16, 1, 2),)))
        yield
