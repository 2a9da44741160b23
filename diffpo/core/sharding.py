"""Weights that are split over processes (PyTorch's `fully_shard`, FSDP2), made whole for files and averages."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def gather_tensor(tensor: Tensor) -> Tensor:
    """The full tensor, on every process, of one that may be split; all processes have to call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def is_sharded(model: nn.Module) -> bool:
    """Whether each process holds only a part of the weights."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def whole_state(model: nn.Module, names: Iterable[str] | None = None, keep: bool = True) -> dict[str, Tensor]:
    """Full weights on the CPU, gathered one after the other; all processes have to call it.

    Args:
        names: entries of the state dict that are wanted; None is all of them.
        keep: False takes part in the gathering and returns nothing, which spares the memory.
    """
    state = model.state_dict()
    gathered = ((name, gather_tensor(state[name].detach())) for name in (state if names is None else names))
    return {name: tensor.cpu() for name, tensor in gathered if keep}


def split_like(tensor: Tensor, target: Tensor) -> Tensor:
    """This process's share of a full tensor that every process holds, split as `target` is; nothing is sent."""
    if not isinstance(target, DTensor):
        return tensor
    mesh = target.device_mesh
    return distribute_tensor(tensor.to(mesh.device_type), mesh, target.placements, src_data_rank=None)


def reshard(model: nn.Module) -> None:
    """Drop the weights that a forward pass without a backward pass has left gathered.

    To be called after each such pass and before weights or `requires_grad` change: `fully_shard` keeps the outermost
    weights gathered until the next backward pass, so the next forward pass would not see the change.
    """
    if not torch.distributed.is_initialized():  # spares one process a walk over thousands of modules at every step
        return
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
