"""Stable Diffusion 3 and 3.5 (arXiv:2403.03206)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn

from diffpo.core.refusal import Refusal
from diffpo.diffusion.data.batches import Conditioning, States
from diffpo.diffusion.families.common import JOINT, FlowFamily


@dataclass(frozen=True)
class SD3(FlowFamily):
    """Prompts are penultimate states of two CLIPs side by side, then T5's; zeros where the base came without T5.

    Args:
        length: tokens that T5 reads, padding included.
    """

    pipeline: ClassVar[Any] = StableDiffusion3Pipeline
    longest: ClassVar[int | None] = 512
    network: ClassVar[Any] = SD3Transformer2DModel
    optional: ClassVar[tuple[str, ...]] = ("text_encoder_3", "tokenizer_3")
    encoders: ClassVar[tuple[str, ...]] = (
        *("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
        *optional,
    )
    large: ClassVar[tuple[str, ...]] = ("text_encoder_3",)
    targets: ClassVar[tuple[str, ...]] = JOINT
    length: int = 256

    def states(self, parts: Any, prompts: list[str]) -> States:
        told = {"device": parts.text_encoder.device, "max_sequence_length": self.length}
        prompt, _, pooled, _ = parts.encode_prompt(prompts, None, None, do_classifier_free_guidance=False, **told)
        return {"prompt": prompt, "pooled": pooled}

    def reads(self, parts: Any) -> tuple[Any, int]:
        if parts.tokenizer_3 is None:
            return parts.tokenizer, parts.tokenizer.model_max_length
        return parts.tokenizer_3, self.length

    def require_place(self, network: Any, picture: Sequence[int]) -> None:
        """It has a table of places, and cuts a piece out of its middle."""
        pixels, most = self.multiple // self.patch, network.config.pos_embed_max_size * network.config.patch_size
        if max(picture[1:]) > most:
            raise Refusal(
                f"The network has places for pictures of up to {most * pixels} pixels a side, these have "
                f"{max(picture[1:]) * pixels}; lower data.framing.resolution, or the side of what is drawn."
            )

    def __call__(self, network: nn.Module, x_t: Tensor, told: Tensor, cond: Conditioning) -> Tensor:
        states = {"encoder_hidden_states": cond.states["prompt"], "pooled_projections": cond.states["pooled"]}
        return network(hidden_states=x_t, timestep=told, **states, return_dict=False)[0]
