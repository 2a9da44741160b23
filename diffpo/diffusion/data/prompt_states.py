"""Text states of encoded prompts: how they are computed, and how one is found by its prompt."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Features, Value
from torch import Tensor

from diffpo.diffusion.data.batches import States
from diffpo.storage import arrow

PROMPTS = "prompts"

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

COLUMNS = Features(
    {
        "key": Value("int64"),
        "prompt": Value("string"),
        "states": Value("binary"),
        "pooled": Value("binary"),
        "truncated": Value("bool"),
    }
)


def key_of(prompt: str) -> int:
    """Eight bytes of a hash of the prompt."""
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "little", signed=True)


class PromptStates:
    """What stays in memory is two integers per prompt, whatever their number."""

    def __init__(self, folder: Path, encoding: Mapping[str, Any]):
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
                pooled = None if found["pooled"] is None else self._tensor(found["pooled"])
                return States(self._tensor(found["states"]).view(1, *self.shape), pooled)
        return None

    def _tensor(self, stored: bytes) -> Tensor:
        return torch.frombuffer(bytearray(stored), dtype=self.dtype)[None]
