import torch
from torch import nn

from diffpo.lab.benchmark.ways.shapes import CONTEXT, SHAPES, byte_tokenizer

META = torch.device("meta")


def size(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def test_sd15_has_the_published_sizes():
    pipeline = SHAPES["sd15"].pipeline(META)
    assert (size(pipeline.unet), size(pipeline.vae)) == (859_520_964, 83_653_863)
    assert size(pipeline.text_encoder) == 123_060_480


def test_sdxl_has_the_published_sizes():
    pipeline = SHAPES["sdxl"].pipeline(META)
    assert (size(pipeline.unet), size(pipeline.text_encoder_2)) == (2_567_463_684, 694_659_840)


def test_the_parts_of_the_quarter_fit_together():
    shape = SHAPES["quarter"]
    pipeline = shape.pipeline(META)
    pictures = torch.zeros(1, 3, shape.resolution, shape.resolution, device=META)
    latents = pipeline.vae.encode(pictures).latent_dist.mean
    assert latents.shape[-1] == pipeline.unet.config.sample_size
    states = pipeline.text_encoder(torch.zeros(1, CONTEXT, dtype=torch.long, device=META))[0]
    assert pipeline.unet(latents, 1, states).sample.shape == latents.shape


def test_weights_are_drawn_from_one_seed():
    first, second = (SHAPES["tiny"].pipeline(torch.device("cpu")).unet.conv_in.weight for _ in range(2))
    assert torch.equal(first, second)


def test_a_prompt_fills_the_context():
    tokens = byte_tokenizer()("a fox", padding="max_length", return_tensors="pt").input_ids
    assert tokens.shape == (1, CONTEXT)
