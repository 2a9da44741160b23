"""What FSDP2 and DeepSpeed must be told before they wrap the policy, so that a run means the same under each launcher.

Left alone, both compute in a rounded copy of the weights and reduce rounded gradients. The frozen reference does not,
so margins would start away from zero, by more than a step moves them. Here weights and gradients stay fp32 in both, as
they do in DDP, and rounding is left to autocast, which treats policy and reference alike.
"""

import logging
import os
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from torch.distributed.fsdp import MixedPrecisionPolicy

from diffpo.core.refusal import Refusal

log = logging.getLogger(__name__)


def autocast_type(accelerator: Accelerator) -> torch.dtype:
    """Type that autocast rounds to; fp32 if it is off."""
    return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)


def require_joined(processes: int) -> None:
    """Tell processes that do not know of one another from one run.

    Args:
        processes: of this run, as accelerate sees it.

    Raises:
        Refusal: if the launcher started more of them, each of which would make a run of its own. That `accelerate
            launch` was asked for several and started one, as it does on CPUs, is a warning.
    """
    if (started := int(os.environ.get("WORLD_SIZE", processes))) != processes:
        raise Refusal(
            f"{started} processes were started, and each would make a run of its own, because accelerate joins none "
            f"on CPUs unless told; start them with ACCELERATE_USE_CPU=true torchrun --nproc-per-node {started}."
        )
    # What accelerate's launcher sets for several processes, and where it starts them, WORLD_SIZE with it.
    if (
        {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys()
        and "WORLD_SIZE" not in os.environ
        and processes == 1
    ):
        log.warning(
            "This is one process; if accelerate launch was asked for several, it starts but one on a CPU: use "
            "ACCELERATE_USE_CPU=true torchrun --nproc-per-node N."
        )


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
        rounded = autocast_type(accelerator)
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
