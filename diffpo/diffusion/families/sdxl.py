"""Stable Diffusion XL (arXiv:2307.01952)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionXLPipeline

from diffpo.diffusion.data.batches import States
from diffpo.diffusion.families.common import UNetFamily, find_tokens


@dataclass(frozen=True)
class SDXL(UNetFamily):
    """Prompts are penultimate states of two text encoders side by side, and the pooled state of the second one.

    Added to them are time ids that tell original size, crop and target size of each picture.

    An empty prompt becomes zeros where the pipeline's own unconditional branch is zeros
    (`force_zeros_for_empty_prompt`), because that is the branch that dropped captions train.
    """

    pipeline: ClassVar[Any] = StableDiffusionXLPipeline
    encoders: ClassVar[tuple[str, ...]] = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    options: ClassVar[dict[str, Any]] = {"add_watermarker": False}
    added: ClassVar[str | None] = "text_time"
    normalizes: ClassVar[bool] = True

    def states(self, parts: Any, prompts: list[str]) -> States:
        read = [(parts.tokenizer, parts.text_encoder), (parts.tokenizer_2, parts.text_encoder_2)]
        tokens = [find_tokens(tokenizer, prompts, parts.text_encoder.device) for tokenizer, _ in read]
        outputs = [encoder(ids, output_hidden_states=True) for ids, (_, encoder) in zip(tokens, read, strict=True)]
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        pooled = outputs[-1].text_embeds
        if parts.config.force_zeros_for_empty_prompt:
            said = torch.tensor([bool(prompt) for prompt in prompts], device=states.device)
            states, pooled = states * said[:, None, None], pooled * said[:, None]
        return {"prompt": states, "pooled": pooled}
