"""PixArt-Sigma (arXiv:2403.04692)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel
from torch import Tensor, nn

from diffpo.diffusion.base.family import Path
from diffpo.diffusion.data.batches import Conditioning, States
from diffpo.diffusion.families.common import FlowFamily, ddpm_path, mask_states


@dataclass(frozen=True)
class PixArtSigma(FlowFamily):
    """A transformer that predicts noise on a path of the DDPM family, and its variance, which is left out here.

    Prompts are T5's states. diffusers gives its network no LoRA of its own: one is saved as peft loads it.

    Args:
        length: tokens that are read.
    """

    pipeline: ClassVar[Any] = PixArtSigmaPipeline
    network: ClassVar[Any] = PixArtTransformer2DModel
    width: ClassVar[str] = "caption_channels"
    length: int = 300

    def path(self, scheduler: Any) -> Path:
        return ddpm_path(scheduler)

    def states(self, parts: Any, prompts: list[str]) -> States:
        told = {"device": parts.text_encoder.device, "max_sequence_length": self.length}
        prompt, mask, _, _ = parts.encode_prompt(prompts, do_classifier_free_guidance=False, **told)
        return mask_states(prompt, mask)

    def arguments(self, guidance: float) -> dict[str, Any]:
        plain = {"use_resolution_binning": False, "clean_caption": False}
        return {"guidance_scale": guidance, "max_sequence_length": self.length} | plain

    def __call__(self, network: nn.Module, x_t: Tensor, told: Tensor, cond: Conditioning) -> Tensor:
        states = {"encoder_hidden_states": cond.states["prompt"], "encoder_attention_mask": cond.states["mask"]}
        sizes = {"resolution": None, "aspect_ratio": None}
        out = network(x_t, timestep=told, added_cond_kwargs=sizes, **states, return_dict=False)[0]
        return out[:, : x_t.shape[1]]
