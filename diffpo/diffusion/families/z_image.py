"""Z-Image (arXiv:2511.22699)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from torch import Tensor, nn

from diffpo.diffusion.data.batches import Conditioning, States
from diffpo.diffusion.families.common import FlowFamily, find_room, pad_prompts


@dataclass(frozen=True)
class ZImage(FlowFamily):
    """Prompts are penultimate states of a Qwen3, of as many tokens as they have.

    The network is told how clean a picture is, (1000 - t) / 1000, and says x_0 - eps: the sign is turned here.

    Args:
        length: tokens that are read, chat template included.
    """

    pipeline: ClassVar[Any] = ZImagePipeline
    network: ClassVar[Any] = ZImageTransformer2DModel
    width: ClassVar[str] = "cap_feat_dim"

    def states(self, parts: Any, prompts: list[str]) -> States:
        told = {"device": parts.text_encoder.device, "max_sequence_length": self.length}
        return pad_prompts(parts.encode_prompt(list(prompts), do_classifier_free_guidance=False, **told)[0])

    def reads(self, parts: Any) -> tuple[Any, int]:
        asked = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
        around = parts.tokenizer.apply_chat_template([{"role": "user", "content": ""}], **asked)
        return parts.tokenizer, find_room(parts.tokenizer, self.length, around)

    def arguments(self, guidance: float) -> dict[str, Any]:
        """Its pipeline adds g times the difference to the conditional prediction, so g is guidance - 1."""
        return {"guidance_scale": guidance - 1, "max_sequence_length": self.length}

    def __call__(self, network: nn.Module, x_t: Tensor, told: Tensor, cond: Conditioning) -> Tensor:
        prompts = [states[mask] for states, mask in zip(cond.states["prompt"], cond.states["mask"], strict=True)]
        out = network(list(x_t[:, :, None]), (1000 - told) / 1000, prompts, return_dict=False)[0]
        return -torch.stack(out)[:, :, 0]
