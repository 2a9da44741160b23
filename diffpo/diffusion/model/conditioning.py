"""From prompts and framing to what the network is conditioned on."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from diffpo.diffusion.data.batches import Conditioning, PixelBatch, PromptBatch, States, join_sides, sides


class Conditioner(ABC):
    """The frozen text encoders of a pipeline, in the order in which their states are joined.

    Attributes:
        truncated: prompts met so far that are longer than a tokenizer allows.
        encoded: prompts met so far.
    """

    def __init__(self, parts: Any):
        self.parts = parts
        self.truncated = self.encoded = 0

    @property
    @abstractmethod
    def encoders(self) -> list[tuple[Any, Any]]:
        """Tokenizers and text encoders."""

    def states(self, prompts: list[str]) -> States:
        """What the encoders make of prompts, which are counted."""
        self.count(prompts)
        return self.said(prompts)

    @abstractmethod
    def said(self, prompts: list[str]) -> States:
        """What the encoders make of prompts."""

    @torch.no_grad()
    def __call__(self, raw: PixelBatch | PromptBatch) -> Conditioning:
        """Conditioning of a batch that is on the encoders' device."""
        return join_sides([self.states(side) for side in sides(raw.prompts)], raw.time_ids, raw.user)

    @torch.no_grad()
    def empty(self) -> Conditioning:
        """The empty prompt, without a picture: k = b = 1."""
        states = self.said([""])
        return Conditioning(states.prompt[None], None if states.pooled is None else states.pooled[None])

    def tokens(self, tokenizer: Any, prompts: Sequence[str]) -> Tensor:
        """Ids of prompts, padded and cut to what the tokenizer allows."""
        longest = tokenizer.model_max_length
        padded = tokenizer(prompts, padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
        return padded.input_ids.to(self.parts.text_encoder.device)

    @property
    def longest(self) -> int:
        """Tokens that a prompt may have; the tokenizers of one pipeline agree on it."""
        return self.encoders[0][0].model_max_length

    def cut(self, prompts: Sequence[str]) -> list[bool]:
        """Which prompts are longer than that."""
        tokenizer, _ = self.encoders[0]
        whole = tokenizer(prompts, truncation=False, verbose=False).input_ids
        return [len(ids) > self.longest for ids in whole]

    def count(self, prompts: Sequence[str]) -> None:
        self.truncated += sum(self.cut(prompts))
        self.encoded += len(prompts)

    def report(self) -> str:
        """What became of the prompts, over all processes; every process has to call it."""
        truncated, encoded = sum(gather_object([self.truncated])), sum(gather_object([self.encoded]))
        return f"{truncated} of {encoded} prompts read were longer than {self.longest} tokens and cut."


class OneEncoder(Conditioner):
    """Stable Diffusion 1.x and 2.x: last hidden states of one text encoder."""

    @property
    def encoders(self) -> list[tuple[Any, Any]]:
        return [(self.parts.tokenizer, self.parts.text_encoder)]

    def said(self, prompts: list[str]) -> States:
        return States(self.parts.text_encoder(self.tokens(self.parts.tokenizer, prompts)).last_hidden_state)


class TwoEncoders(Conditioner):
    """Stable Diffusion XL (arXiv:2307.01952): penultimate states of two text encoders side by side.

    Added to them are the pooled state of the second one, and time ids that tell original size, crop and target size of
    each picture.

    An empty prompt becomes zeros where the pipeline's own unconditional branch is zeros
    (`force_zeros_for_empty_prompt`), because that is the branch that dropped captions train.
    """

    @property
    def encoders(self) -> list[tuple[Any, Any]]:
        return [
            (self.parts.tokenizer, self.parts.text_encoder),
            (self.parts.tokenizer_2, self.parts.text_encoder_2),
        ]

    def said(self, prompts: list[str]) -> States:
        outputs = [
            encoder(self.tokens(tokenizer, prompts), output_hidden_states=True) for tokenizer, encoder in self.encoders
        ]
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        pooled = outputs[-1].text_embeds
        if self.parts.config.force_zeros_for_empty_prompt:
            said = torch.tensor([bool(prompt) for prompt in prompts], device=states.device)
            states, pooled = states * said[:, None, None], pooled * said[:, None]
        return States(states, pooled)
