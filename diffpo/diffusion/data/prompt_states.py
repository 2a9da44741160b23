"""Text states of encoded prompts: how they are computed, and how one is found by its prompt."""

import hashlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from datasets import Features, Value
from torch import Tensor

from diffpo.diffusion.data.batches import States
from diffpo.diffusion.data.encoding import EncodingSummary
from diffpo.storage import arrow

PROMPTS = "prompts"

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Columns by name of the states; all that are there are written, but pooled, which is then empty.
NAMES = {"prompt": "states", "pooled": "pooled", "mask": "mask", "bias": "bias"}


def prompt_columns(names: Collection[str]) -> Features:
    """Of the table of prompts that have such states."""
    stored = [column for name, column in NAMES.items() if name in names or name == "pooled"]
    binary = dict.fromkeys(stored, Value("binary"))
    return Features({"key": Value("int64"), "prompt": Value("string")} | binary | {"truncated": Value("bool")})


def cut_states(states: States) -> States:
    """States of one prompt, without its axis, up to the last token that the mask tells."""
    if "mask" not in states:
        return states
    length = int(states["mask"].nonzero().max()) + 1
    return {name: x if name == "pooled" else x[:length] for name, x in states.items()}


def key_of(prompt: str) -> int:
    """Eight bytes of a hash of the prompt."""
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "little", signed=True)


class PromptStates:
    """What stays in memory is two integers per prompt, whatever their number."""

    def __init__(self, folder: Path, encoding: EncodingSummary):
        self.table = arrow.open_files(folder, PROMPTS, encoding["files"][PROMPTS])
        keys = np.asarray(self.table.data.column("key").to_numpy())
        self.order = np.argsort(keys)
        self.keys = keys[self.order]
        self.dtype, self.shape = DTYPES[encoding["dtype"]], encoding["states"]

    def find(self, prompt: str) -> States | None:
        """States of one prompt, as a batch of one; None if it was not encoded."""
        key = key_of(prompt)
        for place in self.order[np.searchsorted(self.keys, key) : np.searchsorted(self.keys, key, side="right")]:
            found = self.table[int(place)]
            if found["prompt"] == prompt:
                return {name: self._tensor(name, found[column]) for name, column in NAMES.items() if found.get(column)}
        return None

    def _tensor(self, name: str, stored: bytes) -> Tensor:
        """As a batch of one; of a prompt, of as many tokens as are stored."""
        dtype = torch.bool if name == "mask" else self.dtype
        values = torch.frombuffer(bytearray(stored), dtype=dtype)[None]
        return values.view(1, -1, self.shape[-1]) if name == "prompt" else values
