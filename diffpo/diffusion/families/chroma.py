"""Chroma (huggingface.co/lodestones/Chroma1-HD): FLUX.1 schnell without its guidance and its pooled state."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel
from diffusers.models.transformers.transformer_chroma import ChromaTransformerBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffpo.diffusion.data.batches import Conditioning, States
from diffpo.diffusion.families.common import FlowFamily, number_places, pack, unpack, unpack_square
from diffpo.diffusion.families.flux import Flux


class MaskedCheckpoint:
    """Checkpoints a block. diffusers (0.42) hands the mask to double blocks alone; these come before single ones."""

    def __call__(self, block: nn.Module, *inputs: Any) -> Any:
        if isinstance(block, ChromaTransformerBlock):
            self.mask = inputs[-1]
        elif len(inputs) == 3:
            inputs = (*inputs, self.mask)
        return checkpoint(block, *inputs, use_reentrant=False)


@dataclass(frozen=True)
class Chroma(FlowFamily):
    """Prompts are T5's states, padding included.

    Its pipeline (diffusers 0.42) adds the mask of a prompt's tokens, ones and zeros, to what its attention takes the
    softmax of, where the published model leaves padding out (github.com/huggingface/diffusers/issues/12116). Training
    does as the pipeline that pictures are drawn with.

    Args:
        length: tokens that T5 reads, padding included.
    """

    pipeline: ClassVar[Any] = ChromaPipeline
    longest: ClassVar[int | None] = 512
    network: ClassVar[Any] = ChromaTransformer2DModel
    targets: ClassVar[tuple[str, ...]] = Flux.targets

    def states(self, parts: Any, prompts: list[str]) -> States:
        told = {"device": parts.text_encoder.device, "max_sequence_length": self.length}
        prompt, _, bias, *_ = parts.encode_prompt(prompts, do_classifier_free_guidance=False, **told)
        return {"prompt": prompt, "bias": bias.to(prompt)}

    def drawn(self, parts: Any, latents: Tensor) -> Tensor:
        return unpack_square(latents)

    def checkpoint(self, network: Any) -> None:
        network.enable_gradient_checkpointing(MaskedCheckpoint())

    def __call__(self, network: nn.Module, x_t: Tensor, told: Tensor, cond: Conditioning) -> Tensor:
        (h, w), tokens, bias = x_t.shape[-2:], pack(x_t), cond.states["bias"].to(x_t)
        out = network(
            hidden_states=tokens,
            timestep=told / 1000,
            encoder_hidden_states=cond.states["prompt"],
            txt_ids=x_t.new_zeros(cond.states["prompt"].shape[1], 3),
            img_ids=number_places(h // 2, w // 2, x_t),
            attention_mask=torch.cat([bias, bias.new_ones(tokens.shape[:2])], 1),
            return_dict=False,
        )[0]
        return unpack(out, h, w)
