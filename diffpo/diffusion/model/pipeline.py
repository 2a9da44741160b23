"""From a hub id, a folder or a single file to a plain diffusers pipeline."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.latents import require_known_latents
from diffpo.diffusion.base.parts import from_folder
from diffpo.diffusion.base.schedules import change_scheduler, require_as_trained, require_said
from diffpo.diffusion.base.single_files import UNUSED, Checkpoint, is_single
from diffpo.diffusion.base.tokenizers import load_tokenizer, require_one_length
from diffpo.diffusion.model.conditioning import Conditioner, OneEncoder, TwoEncoders
from diffpo.storage.hub import name_failed_loads, name_parse_errors

KINDS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
WHAT = {"unet": "a UNet", "vae": "a VAE"}
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
CONFIGS = "the configs of a diffusers pipeline"
# What a UNet may be told besides noise, time, prompt and SDXL's added condition, and is not here.
UNTOLD = ("time_cond_proj_dim", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "encoder_hid_dim")


@dataclass(frozen=True)
class Family:
    """What differs between the pipelines that can be tuned.

    Attributes:
        conditioner: how prompts become states.
        added: `addition_embed_type` of its UNets.
        options: of `from_pretrained`: neither safety checker nor watermark.
        encoders: names of the parts that only encode (and decode), each tokenizer after its text encoder.
        normalizes: whether it knows a VAE's `latents_mean` and `latents_std`.
    """

    pipeline: type[Any]
    conditioner: type[Conditioner]
    added: str | None
    options: dict[str, Any]
    encoders: tuple[str, ...]
    normalizes: bool


FAMILIES = {
    "StableDiffusionPipeline": Family(
        StableDiffusionPipeline,
        OneEncoder,
        None,
        {"safety_checker": None, "requires_safety_checker": False},
        ("vae", "text_encoder", "tokenizer"),
        normalizes=False,
    ),
    "StableDiffusionXLPipeline": Family(
        StableDiffusionXLPipeline,
        TwoEncoders,
        "text_time",
        {"add_watermarker": False},
        ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
        normalizes=True,
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
        Refusal: if something cannot be found, is of another kind, lacks weights, or does not say what it is for.
    """
    named = {"unet": unet if denoises else None, "vae": vae if encodes else None}
    replaced = {name: origin for name, origin in named.items() if origin is not None}
    files = {origin: Checkpoint.of(origin, WHAT[name]) for name, origin in replaced.items() if is_single(origin)}
    if is_single(path):
        files[path] = Checkpoint.of(path)
        home, revision, variant = home_of(files[path], config), None, None
    else:
        home = Home.of(path, revision)
    architecture = Home.of(config, what=CONFIGS) if config else home
    parts: dict[str, Any] = left_out(home.family, encodes, denoises)
    for name in ("unet", *home.family.encoders):
        origin = replaced.get(name, path)
        if name in parts:
            continue
        if name.startswith("tokenizer"):
            encoder = parts[name.replace("tokenizer", "text_encoder")]
            parts[name] = load_tokenizer(home.kind(name), home.path, name, encoder, revision)
        elif origin in files:
            parts[name] = architecture.filled(name, files[origin])
        elif name in replaced:
            parts[name] = from_folder(home.kind(name), origin, (name, ""), WHAT[name], variant=variant)
        else:
            what = WHAT.get(name, f"a {name}")
            parts[name] = from_folder(home.kind(name), path, (name,), what, revision, variant, UNUSED.get(name, ()))
    with name_failed_loads(home.path, "a diffusers pipeline"), name_parse_errors():
        pipeline = home.family.pipeline.from_pretrained(home.path, revision=revision, **home.family.options, **parts)
    if scheduler:
        pipeline.scheduler = change_scheduler(pipeline.scheduler, scheduler)
    require_known(pipeline, home, replaced.get("unet", path), replaced.get("vae", path))
    for file in files.values():
        require_as_trained(file.tensors, file.metadata, pipeline.scheduler, scheduler or {}, file.path)
    return pipeline


@dataclass(frozen=True)
class Home:
    """Where configs, tokenizers and scheduler of a pipeline are: a folder or hub id.

    Attributes:
        index: what `model_index.json` says.
    """

    path: str
    revision: str | None
    index: Mapping[str, Any]

    @classmethod
    def of(cls, path: str, revision: str | None = None, what: str = "a diffusers pipeline") -> "Home":
        """Read and checked.

        Raises:
            Refusal: if there is none, or a json file of a local one is broken.
        """
        for file in sorted([*Path(path).glob("model_index.json"), *Path(path).glob("*/*.json")]):
            if file.parent == Path(path) or file.parent.name in PARTS:
                require_object(file)
        with name_failed_loads(path, what), name_parse_errors():
            index: Any = DiffusionPipeline.load_config(path, revision=revision)
        return cls(path, revision, index)

    @property
    def family(self) -> Family:
        return find_family(str(self.index.get("_class_name")), self.path)

    def kind(self, name: str) -> Any:
        """The class of a part."""
        if name in KINDS:
            return KINDS[name]
        entry = self.index.get(name)
        try:
            library, kind = entry  # type: ignore[reportGeneralTypeIssues]
            return getattr({"transformers": transformers}[library], kind)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise Refusal(
                f"{self.path} names no {name} of transformers in model_index.json (but {entry}); name a whole one."
            ) from error

    def filled(self, name: str, file: Checkpoint) -> Any:
        """A network of this architecture with weights from a single file."""
        kind = self.kind(name)
        with name_failed_loads(self.path, f"the config of {WHAT.get(name, name)}"), name_parse_errors():
            if name in KINDS:
                settings = kind.load_config(self.path, subfolder=name, revision=self.revision)
            else:
                settings = kind.config_class.from_pretrained(self.path, subfolder=name, revision=self.revision)
        if name in KINDS:
            return {"unet": file.unet, "vae": file.vae}[name](settings)
        return file.text_encoder(kind, settings, name)


def home_of(file: Checkpoint, config: str | None) -> Home:
    """Of a single file: what was named, or what diffusers recognises in it, fetched from the hub."""
    if config is not None:
        return Home.of(config, what=CONFIGS)
    try:
        return Home.of(file.home())
    except Refusal as refusal:
        raise Refusal(
            f"{file.path} could not be read with the configs of the hub ({refusal}); name a folder with them in "
            "--base.config."
        ) from refusal


def require_object(file: Path) -> None:
    """Raise a Refusal if a json file is not ours to read, cut, a pointer, or no object."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refusal(f"{file} cannot be read ({error.strerror}); get the right to.") from error
    except ValueError as error:
        raise Refusal(f"{file} is no JSON ({error}); it may be cut or a git-lfs pointer: fetch it again.") from error
    if not isinstance(found, dict):
        raise Refusal(f"{file} holds a {type(found).__name__}, a JSON object is needed; fetch it again.")


def left_out(family: Family, encodes: bool, denoises: bool) -> dict[str, None]:
    """What diffusers takes for parts that are not to be loaded."""
    return dict.fromkeys((() if encodes else family.encoders) + (() if denoises else ("unet",)))


def find_family(kind: str, path: str) -> Family:
    if kind not in FAMILIES:
        raise Refusal(
            f"{path} is a {kind}; diffpo tunes text-to-image Stable Diffusion 1.x, 2.x and XL ({', '.join(FAMILIES)})."
        )
    return FAMILIES[kind]


def require_known(pipeline: Any, home: Home, unet: str, vae: str) -> None:
    """Raise a Refusal if parts do not fit together, or something about them would be guessed.

    Args:
        unet, vae: where they come from.
    """
    if pipeline.unet is not None:
        require_text_to_image(pipeline, unet)
    if pipeline.vae is not None:
        require_known_latents(pipeline.vae, home.family.normalizes, vae)
        require_one_length(pipeline, home.path)
    if pipeline.unet is not None and pipeline.vae is not None:
        require_width(pipeline.unet, width_of(pipeline), unet)
    require_said(pipeline.scheduler, home.path)


def require_text_to_image(pipeline: Any, path: str) -> None:
    """Refuse inpainting networks, those of another family, and those that are told what is not told here."""
    name, unet = type(pipeline).__name__, pipeline.unet.config
    if unet.in_channels != 4 or unet.addition_embed_type != FAMILIES[name].added:
        raise Refusal(
            f"{path} is a {name} whose UNet takes {unet.in_channels} channels and added condition "
            f"{unet.addition_embed_type}; diffpo tunes text-to-image networks with 4 channels, and added condition "
            f"{FAMILIES[name].added} in such a pipeline."
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


def require_width(unet: nn.Module, width: int, path: str) -> None:
    """Refuse a UNet whose attention takes states of another width than there are."""
    for layer, module in unet.named_modules():
        if layer.endswith("attn2.to_k") and module.in_features != width:
            raise Refusal(
                f"{path} does not fit the text encoders: {layer}.weight takes states of width {module.in_features}, "
                f"they give {width}; name the base that the UNet was trained with."
            )
