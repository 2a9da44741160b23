import numpy as np
import pytest
import torch
from PIL import Image

from diffpo.scorers.clip_parts import LinearStack, clip_pixels


def test_an_odd_center_is_rounded_to_the_even_pixel():
    """224 of 227 leave 1.5 on the left: 2, where transformers' processors begin at 1."""
    columns = np.broadcast_to(np.arange(227, dtype=np.uint8)[None, :, None], (224, 227, 3))
    left = clip_pixels(Image.fromarray(columns.copy()), 224)[0, 0, 0]
    torch.testing.assert_close(left, torch.tensor((2 / 255 - 0.48145466) / 0.26862954))


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (224, 224), (50, 224)])
def test_any_picture_becomes_a_square(size):
    assert clip_pixels(Image.new("RGB", size), 224).shape == (3, 224, 224)


def test_a_color_is_normalized_by_channel():
    red = clip_pixels(Image.new("RGB", (8, 8), (255, 0, 0)), 8)[:, 0, 0]
    expected = torch.tensor([(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, -0.40821073 / 0.27577711])
    torch.testing.assert_close(red, expected)


def test_the_stack_is_linear_and_computes_in_fp32():
    stack = LinearStack(6)
    one, two = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    origin = stack(torch.zeros(3, 6))
    torch.testing.assert_close(stack(one + two) - origin, stack(one) + stack(two) - 2 * origin, atol=1e-5, rtol=0)
    assert stack.bfloat16()(one.bfloat16()).dtype == torch.float32
