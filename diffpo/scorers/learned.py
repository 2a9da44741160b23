"""Scorers that are networks: loaded when they are first used, fed in batches."""

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from diffpo.core.refusal import require_at_least
from diffpo.evaluation.scorer import Scorer, require_as_many
from diffpo.processes.devices import device_of

Kind = TypeVar("Kind", bound="Learned")
CHUNK = 1000  # prompts that are counted at a time
THREADS = ThreadPoolExecutor(min(16, os.cpu_count() or 1), "preprocessing")


@dataclass(frozen=True, eq=False)
class Learned(Scorer):
    """A network that rates pictures.

    Args:
        path: hub id, or a local path.
        revision: of a hub id.
        device: null is the accelerator if there is one, else the CPU.
        dtype: in which the network computes; null is what the original does.
        batch_size: pictures at a time.

    Raises:
        Refusal: when it is first used (or by `check`), if there are no such weights or they do not fit.
    """

    path: str
    revision: str | None = None
    device: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    batch_size: int = 32

    @classmethod
    def from_pretrained(
        cls: type[Kind],
        path: str | None = None,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> Kind:
        """The scorer with weights from a hub id or local path (null: the published ones), loaded at first use."""
        named = {} if path is None else {"path": str(path)}
        precision = None if dtype is None else str(dtype).removeprefix("torch.")
        return cls(**named, device=device, dtype=precision, **options)  # type: ignore[reportArgumentType]

    def on(self, device: str) -> Scorer:
        return replace(self, device=device)

    @property
    def model_id(self) -> str:
        return f"{self.path}@{self.revision}" if self.revision else self.path

    @property
    def place(self) -> torch.device:
        return device_of(self.device)

    @property
    def device_type(self) -> str:
        """The kind of device, on which a published precision may depend; it need not be here."""
        return self.device.partition(":")[0] if self.device else self.place.type

    @property
    def precision(self) -> torch.dtype:
        """Type of the weights; see `dtype`."""
        return getattr(torch, self.dtype) if self.dtype else torch.float32

    @abstractmethod
    def load(self) -> nn.Module:
        """The network on the CPU, its weights checked."""

    @cached_property
    def network(self) -> Any:
        return self.load().requires_grad_(False).eval().to(self.place, self.precision)

    @abstractmethod
    def score(self, prompts: list[str], pictures: list[Image.Image]) -> Float[Tensor, " n"]:
        """Scores of one batch of RGB pictures; called without gradients."""

    def check(self, prompts: Sequence[str]) -> None:
        require_at_least(1, **{f"{self.name}.batch_size": self.batch_size})
        _ = self.network

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[str], candidates: Sequence[Any]) -> Float[Tensor, " n"]:
        """One score per prompt and picture, in fp32 on the CPU; pictures are PIL images."""
        require_as_many(prompts, candidates)
        scores = [torch.zeros(0)]
        for begin in range(0, len(prompts), self.batch_size):
            some = slice(begin, begin + self.batch_size)
            pictures = [picture.convert("RGB") for picture in candidates[some]]
            scores.append(self.score(list(prompts[some]), pictures).float().cpu())
        return torch.cat(scores)


def stack_pictures(
    prepare: Callable[[Image.Image], Tensor], pictures: Sequence[Image.Image]
) -> Float[Tensor, "n 3 h w"]:
    """Pictures prepared by several threads, as one batch."""
    return torch.stack(list(THREADS.map(prepare, pictures)))


def count_longer(tokenizer: Any, prompts: Sequence[str], words: int) -> int:
    """How many prompts a tokenizer of transformers makes more tokens of than so many."""
    chunks = (list(prompts[begin : begin + CHUNK]) for begin in range(0, len(prompts), CHUNK))
    counts = (map(len, tokenizer(chunk, truncation=False, verbose=False).input_ids) for chunk in chunks)
    return sum(count > words for of_chunk in counts for count in of_chunk)
