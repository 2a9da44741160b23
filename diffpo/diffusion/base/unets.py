"""UNets of Stable Diffusion: whether one fits the other parts of a pipeline and is told what is told here."""

from typing import Any

from torch import nn

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.latents import require_known_latents
from diffpo.diffusion.base.schedules import require_said
from diffpo.diffusion.base.tokenizers import require_one_length

# What a UNet may be told besides noise, time, prompt and SDXL's added condition, and is not here.
UNTOLD = ("time_cond_proj_dim", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "encoder_hid_dim")


def require_unet(pipeline: Any, path: str, unet: str, vae: str, added: str | None, normalizes: bool) -> None:
    """Raise a Refusal if parts do not fit together, or something about them would be guessed.

    Args:
        path, unet, vae: where pipeline and parts come from.
        added: `addition_embed_type` of such a pipeline's UNets.
        normalizes: as of `require_known_latents`.
    """
    if pipeline.unet is not None:
        require_text_to_image(pipeline, unet, added)
    if pipeline.vae is not None:
        require_known_latents(pipeline.vae, normalizes, vae)
    if pipeline.text_encoder is not None:
        require_one_length(pipeline, path)
    if pipeline.unet is not None and pipeline.text_encoder is not None:
        require_unet_width(pipeline.unet, width_of(pipeline), unet)
    require_said(pipeline.scheduler, path)


def require_text_to_image(pipeline: Any, path: str, added: str | None) -> None:
    """Refuse inpainting networks, those of another family, and those that are told what is not told here."""
    name, unet = type(pipeline).__name__, pipeline.unet.config
    if unet.in_channels != 4 or unet.addition_embed_type != added:
        raise Refusal(
            f"{path} is a {name} whose UNet takes {unet.in_channels} channels and added condition "
            f"{unet.addition_embed_type}; diffpo tunes text-to-image networks with 4 channels, and added condition "
            f"{added} in such a pipeline."
        )
    if untold := [f"{name} {unet[name]}" for name in UNTOLD if unet.get(name) is not None]:
        raise Refusal(
            f"{path} has a UNet that is told more than noise, time and prompt ({', '.join(untold)}), which is not "
            "done here; name another one."
        )


def width_of(pipeline: Any) -> int:
    """Of the states that its text encoders give, side by side."""
    encoders = [getattr(pipeline, part) for part in ("text_encoder", "text_encoder_2") if part in pipeline.components]
    return sum(encoder.config.hidden_size for encoder in encoders)


def require_unet_width(unet: nn.Module, width: int, path: str) -> None:
    """Refuse a UNet whose attention takes states of another width than there are."""
    for layer, module in unet.named_modules():
        if layer.endswith("attn2.to_k") and module.in_features != width:
            raise Refusal(
                f"{path} does not fit the text encoders: {layer}.weight takes states of width {module.in_features}, "
                f"they give {width}; name the base that the UNet was trained with."
            )
