"""How the latents of a network follow from those of its VAE: scaled, and in some bases normalized by channel."""

import logging
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.core.refusal import Refusal

NORMALIZED = ("latents_mean", "latents_std")
log = logging.getLogger(__name__)
Statistics = tuple[Float[Tensor, "c 1 1"], Float[Tensor, "c 1 1"]]


def latent_statistics(vae: Any) -> Statistics | None:
    """Mean and deviation by channel of a VAE's latents, on its device; None of a VAE whose latents are only scaled.

    A network then sees (z - mean) / std x scaling_factor (Playground v2.5, arXiv:2402.17245).
    """
    if vae.config.get("latents_mean") is None:
        return None
    mean, std = (torch.tensor(vae.config[name], device=vae.device)[:, None, None] for name in NORMALIZED)
    return mean, std


def find_posterior(vae: Any, pixels: Float[Tensor, "n 3 H W"]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of latents, normalized by channel if the VAE's config says so, but not yet scaled."""
    posterior = vae.encode(pixels).latent_dist
    if (of_channels := latent_statistics(vae)) is None:
        return posterior.mean, posterior.std
    center, width = of_channels
    return (posterior.mean - center) / width, posterior.std / width


def unscale_latents(vae: Any, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """What the VAE decodes of a network's latents; computed in their type."""
    found = latent_statistics(vae)
    if found is None:
        return latents / vae.config.scaling_factor
    mean, std = (x.to(latents) for x in found)
    return latents * std / vae.config.scaling_factor + mean


def require_known_latents(vae: Any, normalizes: bool, path: str) -> None:
    """Raise a Refusal if latents would not be what the base's own pipeline decodes.

    Args:
        normalizes: whether the pipeline knows `latents_mean` and `latents_std` (StableDiffusionXLPipeline does).
    """
    config = vae.config
    have = {name: config.get(name) for name in NORMALIZED if config.get(name) is not None}
    if config.latent_channels != 4:
        raise Refusal(
            f"{path} holds a VAE of {config.latent_channels} channels, Stable Diffusion has 4; name another."
        )
    if config.get("shift_factor"):
        raise Refusal(
            f"{path} holds a VAE with shift_factor {config.shift_factor}, which pipelines of Stable Diffusion ignore; "
            "name the VAE that the UNet was trained with."
        )
    if have and not normalizes:
        raise Refusal(
            f"{path} holds a VAE with {' and '.join(have)}, which a StableDiffusionPipeline ignores; name the VAE "
            "that the UNet was trained with."
        )
    sound = [len(values) == config.latent_channels for values in have.values()]
    if have and not (len(sound) == 2 and all(sound) and min(have["latents_std"]) > 0):
        raise Refusal(
            f"{path} holds a VAE with {', '.join(f'{name} {values}' for name, values in have.items())}; it needs both "
            f"latents_mean and latents_std, {config.latent_channels} numbers each, deviations above 0."
        )
    if "scaling_factor" not in config.get("_use_default_values", ()):
        return
    if normalizes:
        raise Refusal(
            f"{path} holds a VAE whose config says no scaling_factor, and that of SDXL is not the usual default "
            f"{config.scaling_factor}; add it to the VAE's config.json (0.13025 in SDXL's own)."
        )
    log.warning(f"{path} holds a VAE that says no scaling_factor; {config.scaling_factor}, that of SD 1, is taken.")
