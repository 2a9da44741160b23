"""From prompts and framing to what the network is conditioned on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
import transformers
from accelerate.utils import gather_object

from diffpo.diffusion.base.family import Family
from diffpo.diffusion.data.batches import (
    Conditioning,
    PixelBatch,
    PosteriorBatch,
    PromptBatch,
    States,
    join_sides,
    sides,
)


@contextmanager
def silence_cuts() -> Iterator[None]:
    """Inside, neither library tells of each batch what was cut: that is counted, and told once."""
    libraries = diffusers.utils.logging, transformers.utils.logging
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)


class Conditioner:
    """The frozen text encoders of a pipeline, as its family asks them.

    Args:
        offloads: whether the encoders are on the device of a batch only while it is encoded, and on the CPU otherwise.

    Attributes:
        truncated: prompts met so far that are longer than the family reads.
        encoded: prompts met so far.
    """

    def __init__(self, family: Family, parts: Any, offloads: bool = False):
        self.family, self.parts, self.offloads = family, parts, offloads
        self.truncated = self.encoded = 0

    @property
    def encoders(self) -> list[Any]:
        """The text encoders that there are."""
        names = [name for name in self.family.encoders if name.startswith("text_encoder")]
        return [encoder for name in names if (encoder := self.parts.components[name]) is not None]

    @property
    def device(self) -> torch.device:
        return self.encoders[0].device

    def to(self, device: torch.device | str) -> None:
        """Move the encoders."""
        for encoder in self.encoders:
            encoder.to(device)

    @contextmanager
    def at(self, device: torch.device) -> Iterator[None]:
        """Inside, the encoders are on a device that they may be kept from otherwise."""
        if not self.offloads:
            yield
            return
        self.to(device)
        try:
            yield
        finally:
            self.to("cpu")

    def states(self, prompts: list[str]) -> States:
        """What the encoders make of prompts, which are counted."""
        self.count(prompts)
        with silence_cuts():
            return self.family.states(self.parts, list(prompts))

    @torch.no_grad()
    def __call__(self, raw: PixelBatch | PosteriorBatch | PromptBatch) -> Conditioning:
        """Conditioning of a batch that is on the encoders' device."""
        with self.at(raw.time_ids.device):
            told = [self.states(side) for side in sides(raw.prompts)]
        return join_sides(told, raw.time_ids, raw.user)

    @torch.no_grad()
    def empty(self) -> Conditioning:
        """The empty prompt, without a picture: k = b = 1."""
        return Conditioning({name: x[None] for name, x in self.family.states(self.parts, [""]).items()})

    @property
    def longest(self) -> int:
        """Tokens that a prompt may have."""
        return self.family.reads(self.parts)[1]

    def cut(self, prompts: Sequence[str]) -> list[bool]:
        """Which prompts are longer than that."""
        tokenizer, longest = self.family.reads(self.parts)
        whole = tokenizer(list(prompts), truncation=False, verbose=False).input_ids
        return [len(ids) > longest for ids in whole]

    def count(self, prompts: Sequence[str]) -> None:
        self.truncated += sum(self.cut(prompts))
        self.encoded += len(prompts)

    def report(self) -> str:
        """What became of the prompts, over all processes; every process has to call it."""
        truncated, encoded = sum(gather_object([self.truncated])), sum(gather_object([self.encoded]))
        return f"{truncated} of {encoded} prompts read were longer than {self.longest} tokens and cut."
