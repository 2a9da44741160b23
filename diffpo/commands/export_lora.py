"""Write a LoRA as the single file that A1111, Forge and ComfyUI read.

python scripts/convert_weights.py export-lora --lora runs/mine --output my_lora.safetensors
"""

from pathlib import Path
from typing import Literal

import torch

from diffpo.diffusion.model.kohya import export_kohya

TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def main(lora: str, output: Path, dtype: Literal["fp16", "bf16", "fp32"] = "fp16", settings: str = "") -> None:
    """Write a LoRA as the single file that A1111, Forge and ComfyUI read.

    Args:
        lora: hub id, folder or file of a UNet's LoRA in diffusers', peft's or kohya's layout.
        output: a .safetensors file that does not exist yet.
        dtype: in which the weights are stored.
        settings: the resolved config.
    """
    metadata = export_kohya(lora, output, TYPES[dtype])
    base = metadata.get("ss_base_model_version", "an unknown base")
    print(f"{output}: rank {metadata['ss_network_dim']}, alpha {metadata['ss_network_alpha']}, for {base}, {dtype}")
