"""FLUX.2 dev (github.com/black-forest-labs/flux2)."""

from dataclasses import dataclass
from math import isqrt
from typing import Any, ClassVar

from diffusers import Flux2Pipeline
from diffusers.pipelines.flux2.pipeline_flux2 import format_input
from torch import Tensor

from diffpo.diffusion.families.common import find_room
from diffpo.diffusion.families.flux2_klein import Flux2Klein


@dataclass(frozen=True)
class Flux2(Flux2Klein):
    """The network of klein, larger and with its guidance distilled into it; prompts stand after the pipeline's system
    message, and are three layers of a Mistral 3 side by side.

    Args:
        layers: of the text encoder.
        guidance: what the network is told in training, as policy and reference; drawing tells its own.
        length: tokens that are read, system message and padding included.
    """

    pipeline: ClassVar[Any] = Flux2Pipeline
    layers: tuple[int, int, int] = (10, 20, 30)
    guidance: float = 1.0

    def reads(self, parts: Any) -> tuple[Any, int]:
        """Its tokenizer is that of a processor of pictures, too."""
        messages = format_input([""], system_message=parts.system_message)
        (around,) = parts.tokenizer.apply_chat_template(messages, tokenize=False)
        return parts.tokenizer.tokenizer, find_room(parts.tokenizer.tokenizer, self.length, around)

    def drawn(self, parts: Any, latents: Tensor) -> Tensor:
        """Its pipeline gives tokens of the network."""
        side = isqrt(latents.shape[1])
        return latents.transpose(1, 2).unflatten(2, (side, side))
