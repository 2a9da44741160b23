"""Mix the network that guidance pushes away from: theta + alpha (positive - theta) + mix (negative - theta).

python scripts/convert_weights.py mix-negative --base stable-diffusion-v1-5/stable-diffusion-v1-5 \
    --positive mhdang/dpo-sd1.5-text2image-v1 --negative runs/reversed --output_dir runs/negative

Diffusion-NPO (arXiv:2505.11245) has alpha and mix in [0, 1]. In the published code (github.com/G-U-N/Diffusion-NPO)
(1 - merge_weight) plays alpha, and the scale of the LoRA plays mix; everything released was drawn with both at 1.
"""

from pathlib import Path
from typing import Literal

import torch

from diffpo.diffusion.pipelines.negative_mixing import mix_negative

TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def main(
    base: str,
    negative: str,
    output_dir: Path,
    positive: str | None = None,
    alpha: float = 1.0,
    mix: float = 1.0,
    difference: bool = False,
    dtype: Literal["fp16", "bf16", "fp32"] | None = None,
    shard_size: float = 1.0,
    settings: str = "",
) -> None:
    """Mix the network that guidance pushes away from, as files.

    Args:
        base: hub id or folder of what positive and negative were tuned from, with weights in safetensors.
        negative: what was tuned on reversed preference: hub id, folder or .safetensors file of a network, a LoRA
            or a difference.
        output_dir: gets `unet/` or `transformer/`, or the difference; does not exist or is empty.
        positive: the network whose pictures are wanted, like `negative`; null is the base itself.
        alpha: how much of what the positive adds to the base is kept.
        mix: how much of what the negative adds to the base is added.
        difference: write the sum of both offsets alone, as `difference.safetensors`, for use with other networks.
        dtype: of the weights; null is that of the base's, and fp32 for a difference.
        shard_size: of the files in GB, which is also what is held in memory.
        settings: the resolved config.
    """
    chosen = TYPES[dtype] if dtype else None
    made = mix_negative(base, negative, output_dir, positive, alpha, mix, chosen, difference, int(shard_size * 1e9))
    print(f"{made.path}: {made.tensors} tensors, |theta_neg - theta| / |theta| = {made.relative:.3g}")
