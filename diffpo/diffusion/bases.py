"""From a hub id, a folder or a single file to a plain diffusers pipeline."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint
from torch import nn

from diffpo.diffusion.conditioning import Conditioner, OneEncoder, TwoEncoders
from diffpo.hub import reaching
from diffpo.refusal import Refusal

SINGLE_FILES = (".safetensors", ".ckpt")


@dataclass(frozen=True)
class Family:
    """What differs between the pipelines that can be tuned.

    Attributes:
        conditioner: how prompts become states.
        added: `addition_embed_type` of its UNets.
        options: of `from_pretrained`: neither safety checker nor watermark.
        encoders: names of the parts that only encode (and decode).
    """

    pipeline: type[Any]
    conditioner: type[Conditioner]
    added: str | None
    options: dict[str, Any]
    encoders: tuple[str, ...]


FAMILIES = {
    "StableDiffusionPipeline": Family(
        StableDiffusionPipeline,
        OneEncoder,
        None,
        {"safety_checker": None, "requires_safety_checker": False},
        ("vae", "text_encoder", "tokenizer"),
    ),
    "StableDiffusionXLPipeline": Family(
        StableDiffusionXLPipeline,
        TwoEncoders,
        "text_time",
        {"add_watermarker": False},
        ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
    ),
}


def load_base(
    path: str,
    unet: str | None = None,
    vae: str | None = None,
    config: str | None = None,
    scheduler: dict[str, Any] | None = None,
    revision: str | None = None,
    variant: str | None = None,
    encodes: bool = True,
    denoises: bool = True,
) -> Any:
    """A text-to-image Stable Diffusion 1.x, 2.x or XL as a plain pipeline in fp32; arguments as of `StableDiffusion`.

    Args:
        encodes: False leaves VAE, text encoders and tokenizers out.
        denoises: False leaves the UNet out.

    Raises:
        Refusal: if something cannot be found, is of another kind, or lacks weights.
    """
    parts: dict[str, Any] = {}
    if unet is not None and denoises:
        with reaching(unet, "a UNet"):
            parts["unet"] = from_subfolder(UNet2DConditionModel, unet, "unet")
    if vae is not None and encodes:
        with reaching(vae, "a VAE"):
            parts["vae"] = from_subfolder(AutoencoderKL, vae, "vae")
    if path.endswith(SINGLE_FILES):
        pipeline = from_single_file(path, config, parts, encodes, denoises)
    else:
        with reaching(path, "a diffusers pipeline"):
            index = DiffusionPipeline.load_config(path, revision=revision)
        family = known(str(index.get("_class_name")), path)  # type: ignore[reportAttributeAccessIssue]
        parts |= left_out(family, encodes, denoises)
        with reaching(path, "a diffusers pipeline"):
            pipeline = family.pipeline.from_pretrained(
                path, revision=revision, variant=variant, dtype=torch.float32, **family.options, **parts
            )
    if denoises:
        require_text_to_image(pipeline, unet or path)
    if denoises and encodes:
        require_width(pipeline.unet, width_of(pipeline), unet or path)
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            require_whole(part, name, {"unet": unet, "vae": vae}.get(name) or path)
    if scheduler:
        pipeline.scheduler = changed(pipeline.scheduler, scheduler)
    return pipeline


def left_out(family: Family, encodes: bool, denoises: bool) -> dict[str, None]:
    """What diffusers takes for parts that are not to be loaded."""
    return dict.fromkeys((() if encodes else family.encoders) + (() if denoises else ("unet",)))


def known(kind: str, path: str) -> Family:
    if kind not in FAMILIES:
        raise Refusal(
            f"{path} is a {kind}; diffpo tunes text-to-image Stable Diffusion 1.x, 2.x and XL ({', '.join(FAMILIES)})."
        )
    return FAMILIES[kind]


def from_single_file(
    path: str, config: str | None, parts: dict[str, Any], encodes: bool = True, denoises: bool = True
) -> Any:
    """A checkpoint in one file, as the first Stable Diffusion and most fine-tunes are distributed.

    Args:
        config: folder or hub id of a pipeline of the same architecture, for its configs and tokenizers; None lets
            diffusers recognise the architecture and fetch them from the hub.
    """
    with reaching(path, "a checkpoint of a whole pipeline"):
        if config is None:
            kind = infer_diffusers_model_type(load_single_file_checkpoint(path))
            family = FAMILIES["StableDiffusionXLPipeline" if kind.startswith("xl") else "StableDiffusionPipeline"]
    if config is not None:
        with reaching(config, "the configs of a diffusers pipeline"):
            family = known(str(DiffusionPipeline.load_config(config).get("_class_name")), config)  # type: ignore[reportAttributeAccessIssue]
    parts |= left_out(family, encodes, denoises)
    try:
        return family.pipeline.from_single_file(path, config=config, dtype=torch.float32, **family.options, **parts)
    # What is absent is an OSError offline, what does not fit one of the others.
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
        remedy = "check that both are of one architecture" if config else "name a folder with them in --base.config"
        raise Refusal(
            f"{path} could not be read with the configs of {config or 'the hub'} "
            f"({' '.join(str(error).split())[:200]}); {remedy}."
        ) from error


def require_text_to_image(pipeline: Any, path: str) -> None:
    """Refuse inpainting networks and those of another family."""
    name, unet = type(pipeline).__name__, pipeline.unet.config
    if unet.in_channels != 4 or unet.addition_embed_type != FAMILIES[name].added:
        raise Refusal(
            f"{path} is a {name} whose UNet takes {unet.in_channels} channels and added condition "
            f"{unet.addition_embed_type}; diffpo tunes text-to-image networks with 4 channels, and added condition "
            f"{FAMILIES[name].added} in such a pipeline."
        )


def width_of(pipeline: Any) -> int:
    """Of the states that its text encoders give, side by side."""
    encoders = [getattr(pipeline, part) for part in ("text_encoder", "text_encoder_2") if part in pipeline.components]
    return sum(encoder.config.hidden_size for encoder in encoders)


def require_width(unet: nn.Module, width: int, path: str) -> None:
    """Refuse a UNet whose attention takes states of another width than there are."""
    for layer, module in unet.named_modules():
        if layer.endswith("attn2.to_k") and module.in_features != width:
            raise Refusal(
                f"{path} does not fit the text encoders: {layer}.weight takes states of width {module.in_features}, "
                f"they give {width}; name the base that the UNet was trained with."
            )


def require_whole(part: nn.Module, name: str, path: str) -> None:
    """Diffusers only warns about weights that a file lacks, and leaves them on the meta device."""
    if absent := [name for name, parameter in part.named_parameters() if parameter.is_meta]:
        raise Refusal(
            f"{path} lacks {len(absent)} weights of the {name}, first {absent[0]}; if it was saved with adapters, "
            "merge them into it (pipe.fuse_lora(), pipe.unload_lora_weights()) and save it again."
        )


def changed(scheduler: Any, overrides: dict[str, Any]) -> Any:
    """The same scheduler with other settings, which must be settings of it."""
    if unknown := sorted(overrides.keys() - scheduler.config.keys()):
        have = ", ".join(sorted(name for name in scheduler.config if not name.startswith("_")))
        raise Refusal(f"base.scheduler names {', '.join(unknown)}; {type(scheduler).__name__} has {have}.")
    try:
        return type(scheduler).from_config(scheduler.config, **overrides)
    # Diffusers checks no type; what it computes with them then fails in one of these ways.
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise Refusal(f"base.scheduler {overrides} is not what {type(scheduler).__name__} takes: {error}") from error


def from_subfolder(kind: Any, path: str, name: str) -> Any:
    """Weights of one part: a single file, `path/name` (pipelines, tuned UNets), or the top of `path` (VAEs)."""
    if Path(path).is_file():
        return kind.from_single_file(path, dtype=torch.float32)
    try:
        return kind.from_pretrained(path, subfolder=name, dtype=torch.float32)
    except OSError:
        return kind.from_pretrained(path, dtype=torch.float32)
