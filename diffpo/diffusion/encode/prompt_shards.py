"""Text states of prompts, written shard by shard."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from diffpo.diffusion.data.batches import States
from diffpo.diffusion.data.prompt_states import NAMES, PROMPTS, cut_states, key_of, prompt_columns
from diffpo.diffusion.model.conditioning import Conditioner
from diffpo.storage import arrow
from diffpo.storage.arrow import Shards


def record_states(prompt: str, states: States, truncated: bool) -> dict[str, Any]:
    """One line of the table.

    Args:
        states: of this prompt, without an axis of prompts.
    """
    stored = {NAMES[name]: as_bytes(x) for name, x in cut_states(states).items()}
    return {"key": key_of(prompt), "prompt": prompt, "pooled": None, "truncated": truncated} | stored


def as_bytes(x: Tensor) -> bytes:
    return x.contiguous().cpu().view(torch.uint8).numpy().tobytes()


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

    @property
    def is_cut(self) -> bool:
        """Whether each prompt is stored up to its last token."""
        return "mask" in self.empty

    @cached_property
    def bytes_of_row(self) -> int:
        """Of one that is as long as it may be: families with masks store the tokens of each prompt alone."""
        longest = self.conditioner.longest if self.is_cut else 0
        rows = {name: max(longest, x.shape[1]) if name != "pooled" else x.shape[1] for name, x in self.empty.items()}
        return sum(rows[name] * x[0, 0].numel() * x.element_size() for name, x in self.empty.items())

    def write(self, names: Sequence[str], folder: Path, silent: bool) -> Iterator[str]:
        for name in tqdm(names, desc="encoding", unit=f"files of {self.what}", disable=silent):
            arrow.write_batch(folder / name, prompt_columns(self.empty), self.records(self.files[name]))
            yield name

    def records(self, rows: range) -> Iterator[dict[str, Any]]:
        """Lines of the table; the last batch of prompts is filled up, see `EncodedShards.batched`."""
        for begin in range(rows.start, rows.stop, self.batch_size):
            prompts = self.prompts[begin : min(begin + self.batch_size, rows.stop)]
            states = self.conditioner.states(prompts + prompts[-1:] * (self.batch_size - len(prompts)))
            for n, (prompt, truncated) in enumerate(zip(prompts, self.conditioner.cut(prompts), strict=True)):
                yield record_states(prompt, {name: x[n] for name, x in states.items()}, truncated)
