"""What FSDP2 and DeepSpeed must be told before they wrap the policy, so that a run means the same under each launcher.

Left alone, both compute in a rounded copy of the weights and reduce rounded gradients. The frozen reference does not,
so margins would start away from zero, by more than a step moves them. Here weights and gradients stay fp32 in both, as
they do in DDP, and rounding is left to autocast, which treats policy and reference alike.
"""

from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from torch.distributed.fsdp import MixedPrecisionPolicy

from diffpo.refusal import Refusal


def precision(accelerator: Accelerator) -> torch.dtype:
    """Type that autocast rounds to; fp32 if it is off."""
    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)


def suit_launcher(accelerator: Accelerator, per_device_batch_size: int, max_grad_norm: float) -> None:
    """Settle what the launcher's own config cannot know; to be called before `accelerator.prepare`.

    Raises:
        Refusal: if the launcher splits weights in a way that cannot be gathered for checkpoints and export (FSDP1,
            ZeRO-3), or is DeepSpeed in fp16, whose skipped steps accelerate does not see.
    """
    plugin: Any
    if accelerator.distributed_type == DistributedType.FSDP:
        plugin = accelerator.state.fsdp_plugin
        if not accelerator.is_fsdp2:
            raise Refusal("FSDP1 is not supported; set fsdp_version: 2, as in configs/accelerate/fsdp2.yaml.")
        plugin.mixed_precision_policy = MixedPrecisionPolicy()
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        plugin = accelerator.state.deepspeed_plugin
        rounded = precision(accelerator)
        if plugin.zero_stage > 2:
            raise Refusal(f"DeepSpeed ZeRO-{plugin.zero_stage} is not supported; set zero_stage: 2, or use FSDP2.")
        if rounded == torch.float16:
            raise Refusal("DeepSpeed in fp16 is not supported; set mixed_precision: bf16, or use DDP or FSDP2.")
        plugin.gradient_accumulation_steps = accelerator.gradient_accumulation_steps
        plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": per_device_batch_size,
            "gradient_accumulation_steps": accelerator.gradient_accumulation_steps,
            "gradient_clipping": max_grad_norm,
            "bf16": {"enabled": False},
            "torch_autocast": {
                "enabled": rounded != torch.float32,
                "dtype": str(rounded).removeprefix("torch."),
                "lower_precision_safe_modules": [],  # whose gradients would be rounded before they are summed
            },
        }
