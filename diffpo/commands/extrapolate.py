"""Write the start of the next round of accelerated preference optimization: theta + alpha (theta - before).

accelerate launch scripts/train_text_dpo.py --config mine.yaml --base.path BASE --output_dir runs/1
python scripts/convert_weights.py extrapolate --plain runs/1 --before BASE --output_dir runs/start-2
accelerate launch scripts/train_text_dpo.py --config mine.yaml --base.path runs/start-2 --output_dir runs/2
python scripts/convert_weights.py extrapolate --plain runs/2 --before runs/1 --output_dir runs/start-3
accelerate launch scripts/train_text_dpo.py --config mine.yaml --base.path runs/start-3 --output_dir runs/3

Each round has pairs of its own (data.source), sampled from its start and labelled; its reference is its start, and its
optimizer is new. The result is the plain runs/3. The paper (arXiv:2410.06293) has alpha 0.3, three rounds, and beta
0.01, 0.1 and 1 in them. A UNet does as well as a language model: name runs/1/unet.
"""

from pathlib import Path
from typing import Literal

import torch

from diffpo.train.extrapolation import extrapolate

TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def main(
    plain: Path,
    before: Path,
    output_dir: Path,
    alpha: float = 0.3,
    dtype: Literal["fp16", "bf16", "fp32"] | None = None,
    settings: str = "",
) -> None:
    """Write the start of the next round of accelerated preference optimization.

    Args:
        plain: folder with the weights that the last round ended with.
        before: the same of the round before; after the first round, a local folder of the base.
        output_dir: gets a copy of `plain` with other weights; does not exist or is empty.
        alpha: strength of the momentum, in [0, 1); 0 is iterative training without it.
        dtype: of the weights; null is that of `plain`. Small steps are lost in bf16.
        settings: the resolved config.
    """
    tensors, moved = extrapolate(plain, before, output_dir, alpha, TYPES[dtype] if dtype else None)
    print(f"{output_dir}: {tensors} tensors; the last round had moved them by {moved:.3g} of their norm.")
