"""Files of weights: found, and read without running what they hold."""

import struct
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from diffpo.core.refusal import Refusal
from diffpo.storage.hub import BROKEN, locate_file, name_failed_loads

# What torch says of a file that is no pickle of tensors: it reads byte by byte, and each fails in its own way.
WRONG = (UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, struct.error)


def read_saved(path: str, file: str, revision: str | None, what: str) -> dict[str, Any]:
    """What is in a file that torch (tensors and plain values only) or safetensors saved; see `located`.

    Raises:
        Refusal: if it cannot be reached or read.
    """
    with name_failed_loads(path, what):
        found = locate_file(path, file, revision)
        try:
            if found.suffix == ".safetensors":
                return load_file(found)
            return torch.load(found, map_location="cpu", weights_only=True)
        except (*WRONG, SafetensorError) as error:
            raise Refusal(BROKEN) from error
