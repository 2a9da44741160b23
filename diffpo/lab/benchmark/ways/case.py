"""What is trained in a comparison: the same network, pairs and optimizer for every way of training it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import Adafactor

from diffpo.core.pair import PairLabels
from diffpo.diffusion.data.batches import PixelBatch
from diffpo.diffusion.model.lora import LoRA
from diffpo.lab.benchmark.ways.shapes import SHAPES, Shape

LR, WEIGHT_DECAY = 1e-6, 1e-2
PROMPT = "a watercolor of a fox reading a book under a tree"


@dataclass(frozen=True, eq=False)
class Case:
    """One comparison.

    Attributes:
        shape: name of the pipeline's shape.
        lora: adapters of rank 8 are trained, the UNet's own weights are frozen.
        pairs: in a batch, which is one pass through the networks.
        optimizer: of the trained parameters.
        bf16: networks compute in bf16, trained weights stay in fp32.
        one_side_at_a_time: as of `StableDiffusion`; the published way has no such thing.
    """

    shape: str
    lora: bool
    pairs: int
    optimizer: Callable[[Any], Optimizer]
    checkpointing: bool = False
    bf16: bool = False
    device: torch.device = torch.device("cpu")
    one_side_at_a_time: bool = False

    @property
    def sizes(self) -> Shape:
        return SHAPES[self.shape]

    @property
    def storage(self) -> torch.dtype:
        return torch.bfloat16 if self.bf16 else torch.float32

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def pixels(self) -> PixelBatch:
        """Random pictures, on the host like a loader's."""
        rng, side = torch.Generator().manual_seed(0), self.sizes.resolution
        pictures = torch.randint(256, (2, self.pairs, 3, side, side), generator=rng, dtype=torch.uint8)
        time_ids = torch.tensor([side, side, 0, 0, side, side]).float().expand(2, self.pairs, 6)
        rows = tuple(range(self.pairs))
        prompts = ([PROMPT] * self.pairs,) * 2
        return PixelBatch(pictures, time_ids, prompts, PairLabels.hard(self.pairs), (0,) * self.pairs, rows)

    def trainable(self, unet: Any) -> list[nn.Parameter]:
        """Make a new UNet what this case trains."""
        unet.requires_grad_(not self.lora).train()
        if self.lora:
            LoRA().attach(unet)
        if self.checkpointing:
            unet.enable_gradient_checkpointing()
        return [p for p in unet.parameters() if p.requires_grad]


def launched(shape: str, lora: bool, pairs: int, device: torch.device) -> Case:
    """A case with the options of the published launchers, in bf16 on a GPU and in fp32 on a CPU.

    All of the UNet is trained by AdamW, of an SDXL by Adafactor with checkpointing
    (github.com/SalesforceAIResearch/DiffusionDPO); adapters by 8-bit AdamW with checkpointing
    (github.com/huggingface/diffusers, research_projects/diffusion_dpo).
    """
    cuda, is_xl = device.type == "cuda", SHAPES[shape].is_xl
    optimizer = adapter_optimizer(cuda) if lora else ADAFACTOR if is_xl else ADAMW
    return Case(shape, lora, pairs, optimizer, checkpointing=lora or is_xl, bf16=cuda, device=device)


ADAMW = partial(AdamW, lr=LR, weight_decay=WEIGHT_DECAY)
ADAFACTOR = partial(
    Adafactor, lr=LR, weight_decay=WEIGHT_DECAY, clip_threshold=1.0, scale_parameter=False, relative_step=False
)


def adapter_optimizer(cuda: bool) -> Callable[[Any], Optimizer]:
    """8-bit AdamW, which needs bitsandbytes and a GPU, or else AdamW."""
    return eight_bit if cuda and find_spec("bitsandbytes") else ADAMW


def eight_bit(parameters: Any) -> Optimizer:
    from bitsandbytes.optim import AdamW8bit  # type: ignore[reportMissingImports]

    return AdamW8bit(parameters, lr=LR, weight_decay=WEIGHT_DECAY)
