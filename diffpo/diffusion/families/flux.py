"""FLUX.1 dev and schnell (github.com/black-forest-labs/flux)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn

from diffpo.diffusion.data.batches import Conditioning, States
from diffpo.diffusion.families.common import (
    JOINT,
    FlowFamily,
    dispatch_attention,
    number_places,
    pack,
    unpack,
    unpack_square,
)


@dataclass(frozen=True)
class Flux(FlowFamily):
    """Prompts are T5's states, padding included, and CLIP's pooled one.

    Args:
        guidance: what a distilled network (dev) is told in training, as policy and reference; drawing tells its own.
        length: tokens that T5 reads, padding included; schnell takes 256.
    """

    pipeline: ClassVar[Any] = FluxPipeline
    longest: ClassVar[int | None] = 512
    network: ClassVar[Any] = FluxTransformer2DModel
    encoders: ClassVar[tuple[str, ...]] = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    large: ClassVar[tuple[str, ...]] = ("text_encoder_2",)
    targets: ClassVar[tuple[str, ...]] = (
        *JOINT,
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    )
    guidance: float = 1.0

    def states(self, parts: Any, prompts: list[str]) -> States:
        told = {"device": parts.text_encoder.device, "max_sequence_length": self.length}
        prompt, pooled, _ = parts.encode_prompt(prompts, None, **told)
        return {"prompt": prompt, "pooled": pooled}

    def reads(self, parts: Any) -> tuple[Any, int]:
        return parts.tokenizer_2, self.length

    def drawn(self, parts: Any, latents: Tensor) -> Tensor:
        return unpack_square(latents)

    def attend(self, network: Any, kind: str) -> None:
        dispatch_attention(network, kind)

    def __call__(self, network: nn.Module, x_t: Tensor, told: Tensor, cond: Conditioning) -> Tensor:
        h, w = x_t.shape[-2:]
        config: Any = network.config
        out = network(
            hidden_states=pack(x_t),
            timestep=told / 1000,
            guidance=told.new_full((len(x_t),), self.guidance) if config.guidance_embeds else None,
            pooled_projections=cond.states["pooled"],
            encoder_hidden_states=cond.states["prompt"],
            txt_ids=x_t.new_zeros(cond.states["prompt"].shape[1], 3),
            img_ids=number_places(h // 2, w // 2, x_t),
            return_dict=False,
        )[0]
        return unpack(out, h, w)
