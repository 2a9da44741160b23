"""FLUX.2 klein (github.com/black-forest-labs/flux2)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
from torch import Tensor, nn

from diffpo.core.refusal import Refusal
from diffpo.diffusion.data.batches import Conditioning, States
from diffpo.diffusion.families.common import FlowFamily, dispatch_attention, find_room


@dataclass(frozen=True)
class Flux2Klein(FlowFamily):
    """Prompts are three layers of a Qwen3 side by side, padding included; latents are folded 2 x 2 and normalized by
    the statistics of the VAE's batch norm.

    Args:
        layers: of the text encoder.
        length: tokens that are read, chat template and padding included.
    """

    pipeline: ClassVar[Any] = Flux2KleinPipeline
    patch: ClassVar[int] = 1
    network: ClassVar[Any] = Flux2Transformer2DModel
    vae: ClassVar[Any] = AutoencoderKLFlux2
    targets: ClassVar[tuple[str, ...]] = (*FlowFamily.targets, "to_qkv_mlp_proj")
    layers: tuple[int, int, int] = (9, 18, 27)

    def lora_layers(self, network: Any) -> tuple[str, ...]:
        """By block where a single block's output layer is called as a list of layers in the double blocks is."""
        singles = range(len(network.single_transformer_blocks))
        return (*self.targets, *(f"single_transformer_blocks.{number}.attn.to_out" for number in singles))

    def states(self, parts: Any, prompts: list[str]) -> States:
        most = parts.text_encoder.config.get_text_config().num_hidden_layers
        if max(self.layers) > most:
            raise Refusal(
                f"{type(self).__name__} reads layers {self.layers} of a text encoder, and this one has {most}; name "
                "others in layers of base.family."
            )
        told = {"text_encoder_out_layers": self.layers, "max_sequence_length": self.length}
        return {"prompt": parts.encode_prompt(list(prompts), device=parts.text_encoder.device, **told)[0]}

    def reads(self, parts: Any) -> tuple[Any, int]:
        asked = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        around = parts.tokenizer.apply_chat_template([{"role": "user", "content": ""}], **asked)
        return parts.tokenizer, find_room(parts.tokenizer, self.length, around)

    def posterior(self, parts: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.statistics(parts)
        posterior, fold = parts.vae.encode(pixels).latent_dist, parts._patchify_latents
        return (fold(posterior.mean) - mean) / std, fold(posterior.std) / std

    def decoded(self, parts: Any, latents: Tensor) -> Tensor:
        mean, std = (x.to(latents) for x in self.statistics(parts))
        return parts.vae.decode(parts._unpatchify_latents(latents * std + mean), return_dict=False)[0]

    def drawn(self, parts: Any, latents: Tensor) -> Tensor:
        """Its pipeline gives latents of the VAE."""
        mean, std = (x.to(latents) for x in self.statistics(parts))
        return (parts._patchify_latents(latents) - mean) / std

    def statistics(self, parts: Any) -> tuple[Tensor, Tensor]:
        norm = parts.vae.bn
        deviation = (norm.running_var + parts.vae.config.batch_norm_eps).sqrt()
        return norm.running_mean.view(1, -1, 1, 1), deviation.view(1, -1, 1, 1)

    def arguments(self, guidance: float) -> dict[str, Any]:
        told = {"text_encoder_out_layers": self.layers, "max_sequence_length": self.length}
        return {"guidance_scale": guidance} | told

    def attend(self, network: Any, kind: str) -> None:
        dispatch_attention(network, kind)

    def __call__(self, network: nn.Module, x_t: Tensor, told: Tensor, cond: Conditioning) -> Tensor:
        prompt, (n, c, h, w) = cond.states["prompt"], x_t.shape
        out = network(
            hidden_states=x_t.flatten(2).transpose(1, 2),
            timestep=told / 1000,
            guidance=None if self.guidance is None else told.new_full((n,), self.guidance),
            encoder_hidden_states=prompt,
            txt_ids=self.pipeline._prepare_text_ids(prompt).to(x_t.device),
            img_ids=self.pipeline._prepare_latent_ids(x_t).to(x_t.device),
            return_dict=False,
        )[0]
        return out.transpose(1, 2).reshape(n, c, h, w)
