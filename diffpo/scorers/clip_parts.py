"""What several scorers have in common besides a network of a library: how CLIP's authors prepare pictures, a head."""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
WIDTHS = {"0": 1024, "2": 128, "4": 64, "6": 16, "7": 1}  # the missing numbers were dropout


def clip_pixels(picture: Image.Image, size: int) -> Float[Tensor, "3 h w"]:
    """As CLIP's authors prepare a picture: shorter side to `size` (bicubic), center crop, normalization.

    Where the center falls between two pixels, it is rounded to the even one, as in torchvision; the image processors
    of transformers round down.
    """
    shorter = min(picture.size)
    width, height = (int(size * side / shorter) for side in picture.size)
    # One axis at a time: Pillow 13 begins with the other one where pictures are tall, and rounds in between.
    wide = picture.resize((width, picture.height), Image.Resampling.BICUBIC)
    scaled = wide.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in scaled.size)
    square = np.asarray(scaled.crop((left, top, left + size, top + size)), dtype=np.float32)
    channels = torch.from_numpy(square).permute(2, 0, 1) / 255
    return (channels - MEAN) / STD


class LinearStack(nn.ModuleDict):
    """width-1024-128-64-16-1 without activations, computed in fp32 whatever the type of its weights."""

    def __init__(self, width: int):
        widths = [width, *WIDTHS.values()]
        super().__init__({name: nn.Linear(a, b) for name, a, b in zip(WIDTHS, widths, widths[1:], strict=False)})

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        values = features.float()
        for layer in self.values():
            weight, bias = layer.parameters()
            values = nn.functional.linear(values, weight.float(), bias.float())
        return values.squeeze(-1)
