"""Stable Diffusion 1.x and 2.x (arXiv:2112.10752)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers import StableDiffusionPipeline

from diffpo.diffusion.data.batches import States
from diffpo.diffusion.families.common import UNetFamily, find_tokens


@dataclass(frozen=True)
class SD(UNetFamily):
    """Prompts are the last hidden states of one text encoder."""

    pipeline: ClassVar[Any] = StableDiffusionPipeline
    encoders: ClassVar[tuple[str, ...]] = ("vae", "text_encoder", "tokenizer")
    options: ClassVar[dict[str, Any]] = {"safety_checker": None, "requires_safety_checker": False}
    added: ClassVar[str | None] = None
    normalizes: ClassVar[bool] = False

    def states(self, parts: Any, prompts: list[str]) -> States:
        tokens = find_tokens(parts.tokenizer, prompts, parts.text_encoder.device)
        return {"prompt": parts.text_encoder(tokens).last_hidden_state}
