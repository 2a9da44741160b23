"""Files of weights: found, read without running what they hold, and refused if they are of another network."""

from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diffpo.hub import reaching
from diffpo.refusal import Refusal


def located(path: str, file: str, revision: str | None = None) -> Path:
    """`path` itself if it is a file, otherwise `file` in that folder or hub repository."""
    local = Path(path)
    if not local.exists():
        return Path(hf_hub_download(path, file, revision=revision))
    found = local / file if local.is_dir() else local
    if not found.exists():
        raise FileNotFoundError(f"there is no {file} in it")
    return found


def saved(path: str, file: str, revision: str | None, what: str) -> dict[str, Any]:
    """What is in a file that torch (tensors and plain values only) or safetensors saved; see `located`.

    Raises:
        Refusal: if it cannot be reached or read.
    """
    with reaching(path, what):
        found = located(path, file, revision)
        try:
            if found.suffix == ".safetensors":
                return load_file(found)
            return torch.load(found, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
            raise Refusal("it is damaged, or holds more than tensors; fetch it again") from error


def fill(
    network: nn.Module, tensors: Mapping[str, Tensor], path: str, what: str, called: Callable[[str], str] = str
) -> None:
    """Give a network all of its weights from a file.

    Args:
        tensors: become the network's own, without a copy.
        called: the name in the file of one of the network's weights.

    Raises:
        Refusal: if the file lacks a weight, has one too many, or one of another shape: it names the first.
    """
    names = {called(name): name for name in network.state_dict()}
    own = network.state_dict()
    wanted = {theirs: tuple(own[ours].shape) for theirs, ours in names.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if misfits := sorted({name for name, _ in found.items() ^ wanted.items()}):
        first = misfits[0]
        raise Refusal(
            f"{path} is no {what}: {len(misfits)} of its weights do not fit, the first is {first}, which has shape "
            f"{found.get(first, 'none')} and should have {wanted.get(first, 'none')}."
        )
    network.load_state_dict({names[name]: tensor for name, tensor in tensors.items()}, assign=True)
