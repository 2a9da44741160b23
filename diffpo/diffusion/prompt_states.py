"""Text states of encoded prompts: how they are computed, and how one is found by its prompt."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Features, Value
from torch import Tensor
from tqdm import tqdm

from diffpo import arrow
from diffpo.arrow import Shards
from diffpo.diffusion.conditioning import Conditioner, States

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


def record(prompt: str, states: Tensor, pooled: Tensor | None, truncated: bool) -> dict[str, Any]:
    """One line of the table."""
    return {
        "key": key_of(prompt),
        "prompt": prompt,
        "states": as_bytes(states),
        "pooled": None if pooled is None else as_bytes(pooled),
        "truncated": truncated,
    }


def as_bytes(x: Tensor) -> bytes:
    return x.contiguous().cpu().view(torch.uint8).numpy().tobytes()


class PromptStates:
    """What stays in memory is two integers per prompt, whatever their number."""

    def __init__(self, folder: Path, encoding: Mapping[str, Any]):
        self.table = arrow.opened(folder, PROMPTS, encoding["files"][PROMPTS])
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


@dataclass(frozen=True, eq=False)
class PromptShards(Shards):
    """Prompts and their text states."""

    prompts: list[str]
    conditioner: Conditioner
    batch_size: int
    what = PROMPTS

    @property
    def rows(self) -> int:
        return len(self.prompts)

    @cached_property
    def empty(self) -> States:
        return self.conditioner.states([""])

    @cached_property
    def bytes_of_row(self) -> int:
        return sum(x.numel() * x.element_size() for x in (self.empty.prompt, self.empty.pooled) if x is not None)

    def write(self, names: Sequence[str], folder: Path, silent: bool) -> Iterator[str]:
        for name in tqdm(names, desc="encoding", unit=f"files of {self.what}", disable=silent):
            arrow.write(folder / name, COLUMNS, self.records(self.files[name]))
            yield name

    def records(self, rows: range) -> Iterator[dict[str, Any]]:
        """Lines of the table; the last batch of prompts is filled up, see `EncodedShards.batched`."""
        for begin in range(rows.start, rows.stop, self.batch_size):
            prompts = self.prompts[begin : min(begin + self.batch_size, rows.stop)]
            states = self.conditioner.states(prompts + prompts[-1:] * (self.batch_size - len(prompts)))
            pooled = [None] * self.batch_size if states.pooled is None else list(states.pooled)
            told = zip(prompts, states.prompt, pooled, self.conditioner.cut(prompts), strict=False)
            yield from (record(*line) for line in told)
