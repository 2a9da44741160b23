"""Stable Diffusion 1.x and 2.x: from a hub id or folder to the parts that are trained, and back to files."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import gather_object
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.utils import convert_state_dict_to_diffusers
from jaxtyping import Float
from peft import get_peft_model_state_dict
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffpo.adapters import TRAINED, Adapter
from diffpo.diffusion.data import ImagePairs, PixelBatch
from diffpo.diffusion.denoiser import Conditioning, Denoiser, ImageBatch
from diffpo.draws import Draws
from diffpo.hub import reaching
from diffpo.references import FrozenCopy, Reference, SwitchedOff, store_matrices


@dataclass(frozen=True)
class StableDiffusion:
    """Which base model to tune, and how.

    Args:
        path: hub id or folder of a diffusers pipeline.
        unet: another UNet to start from, policy and reference alike (an SFT model, say): hub id or folder, with the
            weights at its top or in `unet/`.
        vae: another VAE, found in the same way.
        adapter: null tunes the whole UNet; diffpo.adapters.LoRA or WarmLoRA tune adapters inside it.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        attention: `native` lets torch choose the kernel, `flash` insists on its flash kernel, `xformers` needs that
            package.
        compile: compile the transformer blocks (torch.compile by block).
        revision: of a hub id.
        variant: of the weight files, e.g. fp16.
    """

    path: str
    unet: str | None = None
    vae: str | None = None
    adapter: Adapter | None = None
    gradient_checkpointing: bool = False
    attention: Literal["native", "flash", "xformers"] = "native"
    compile: bool = False
    revision: str | None = None
    variant: str | None = None

    def load(
        self, device: torch.device | str = "cpu", storage: torch.dtype = torch.float32
    ) -> "LoadedStableDiffusion":
        """Load all parts onto a device, ready to train.

        Args:
            storage: type in which frozen weights are kept where that costs no accuracy; give the type of mixed
                precision. Trainable weights and the VAE stay fp32.

        Raises:
            ValueError: if something cannot be found, or is not a Stable Diffusion 1.x or 2.x.
        """
        parts = load_pipeline(self)
        for module in (parts.vae, parts.text_encoder):
            module.requires_grad_(False).eval().to(device)
        parts.text_encoder.to(storage)
        unet = parts.unet.to(device)
        unet.requires_grad_(self.adapter is None).train()
        if self.adapter is not None:
            self.adapter.attach(unet)
            if storage != torch.float32:
                store_matrices(unet, storage)
        if self.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        ATTENTION[self.attention](unet)
        if self.compile:
            unet.compile_repeated_blocks()
        return LoadedStableDiffusion(self, parts, Denoiser.from_scheduler(unet, parts.scheduler).to(device), storage)


class LoadedStableDiffusion:
    """The parts of a loaded base.

    Attributes:
        unet: the network that is trained.
        truncated: prompts met so far that are longer than the tokenizer allows.
        encoded: prompts met so far.
    """

    def __init__(
        self, config: StableDiffusion, parts: StableDiffusionPipeline, denoiser: Denoiser, storage: torch.dtype
    ):
        self.config, self.parts, self.denoiser, self.storage = config, parts, denoiser, storage
        self.truncated = self.encoded = 0

    @property
    def unet(self) -> Any:
        return self.denoiser.unet

    def reference(self) -> Reference:
        """The base as it is now: its own adapters switched off, or a frozen copy if all of it is trained."""
        if self.config.adapter is not None:
            return SwitchedOff(self.unet, self.config.adapter.off)
        return FrozenCopy(self.unet, None if self.storage == torch.float32 else self.storage)

    def prepare(self, model: nn.Module, raw: PixelBatch, draws: Draws) -> tuple[Denoiser, ImageBatch]:
        """What `fit` calls: the denoiser around `model`, and the encoded batch."""
        return Denoiser(model, self.denoiser.a, self.denoiser.s, self.denoiser.prediction), self.encode(raw, draws)

    @torch.no_grad()
    def encode(self, raw: PixelBatch, draws: Draws) -> ImageBatch:
        """Pixels to latents (sampled from the VAE posterior with noise shared by the pair), prompts to text states."""
        batch = raw.map(lambda x: x.to(draws.device, non_blocking=True))
        posterior = self.parts.vae.encode(batch.pixels.flatten(0, 1).float() / 127.5 - 1).latent_dist
        mean, std = (x.unflatten(0, batch.pixels.shape[:2]) for x in (posterior.mean, posterior.std))
        latents = (mean + std * draws.normal("vae", *mean.shape[2:])) * self.parts.vae.config.scaling_factor
        chosen, rejected = raw.prompts
        prompts = [chosen] if chosen == rejected else [chosen, rejected]
        states = torch.stack([self.text_states(side) for side in prompts])
        return ImageBatch(latents, Conditioning(states.expand(2, -1, -1, -1)), batch.label, batch.row)

    @torch.no_grad()
    def text_states(self, prompts: list[str]) -> Float[Tensor, "b l d"]:
        """Last hidden states of the text encoder; prompts that are too long are cut and counted."""
        tokenizer = self.parts.tokenizer
        longest = tokenizer.model_max_length
        tokens = tokenizer(prompts, padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
        whole = tokenizer(prompts, truncation=False, verbose=False).input_ids
        self.truncated += sum(len(ids) > longest for ids in whole)
        self.encoded += len(prompts)
        return self.parts.text_encoder(tokens.input_ids.to(self.parts.text_encoder.device)).last_hidden_state

    def first(self, pairs: ImagePairs, n: int = 4) -> tuple[ImageBatch, Draws]:
        """The first pairs, encoded: what is checked before a run."""
        raw = pairs.first(min(n, len(pairs)))
        draws = Draws(pairs.seed, raw.epoch, raw.row, self.denoiser.a.device)
        return self.encode(raw, draws), draws

    def report(self) -> str:
        """What became of the prompts, over all processes; every process has to call it."""
        truncated, encoded = sum(gather_object([self.truncated])), sum(gather_object([self.encoded]))
        longest = self.parts.tokenizer.model_max_length
        return f"{truncated} of {encoded} prompts read were longer than {longest} tokens and cut."

    def pipeline(self) -> StableDiffusionPipeline:
        """A plain pipeline around the network as it is now, for previews; it shares all weights."""
        return self.parts

    def save(self, folder: Path) -> None:
        """Write what was trained: `unet/`, or `pytorch_lora_weights.safetensors`; both load in plain diffusers."""
        if self.config.adapter is None:
            self.unet.save_pretrained(folder / "unet")
            return
        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.unet, adapter_name=TRAINED))
        metadata = self.unet.peft_config[TRAINED].to_dict()
        StableDiffusionPipeline.save_lora_weights(folder, layers, unet_lora_adapter_metadata=metadata)


def load_pipeline(config: StableDiffusion) -> StableDiffusionPipeline:
    """The parts of a Stable Diffusion 1.x or 2.x as a plain pipeline in fp32, without safety checker."""
    parts: dict[str, Any] = {}
    if config.unet is not None:
        with reaching(config.unet, "a UNet"):
            parts["unet"] = from_subfolder(UNet2DConditionModel, config.unet, "unet")
    if config.vae is not None:
        with reaching(config.vae, "a VAE"):
            parts["vae"] = from_subfolder(AutoencoderKL, config.vae, "vae")
    with reaching(config.path, "a diffusers pipeline"):
        pipeline = DiffusionPipeline.from_pretrained(
            config.path,
            revision=config.revision,
            variant=config.variant,
            safety_checker=None,
            requires_safety_checker=False,
            dtype=torch.float32,
            **parts,
        )
    found = type(pipeline).__name__
    if isinstance(pipeline, StableDiffusionPipeline):
        unet = pipeline.unet.config
        if unet.in_channels == 4 and not unet.addition_embed_type:
            require_whole(pipeline.unet, config.unet or config.path)
            return pipeline
        found += f" whose UNet takes {unet.in_channels} channels and added condition {unet.addition_embed_type}"
    raise ValueError(
        f"{config.path} is a {found}; diffpo tunes text-to-image Stable Diffusion 1.x and 2.x "
        "(StableDiffusionPipeline, 4 channels, no added condition)."
    )


def require_whole(unet: nn.Module, path: str) -> None:
    """Diffusers only warns about weights that a file lacks, and leaves them on the meta device."""
    if absent := [name for name, parameter in unet.named_parameters() if parameter.is_meta]:
        raise ValueError(
            f"{path} lacks {len(absent)} weights of the UNet, first {absent[0]}; if it was saved with adapters, merge "
            "them into it (pipe.fuse_lora(), pipe.unload_lora_weights()) and save it again."
        )


def load_tuned(config: StableDiffusion, folder: Path) -> StableDiffusionPipeline:
    """The base with what `save` wrote to a folder, loaded as any user of diffusers would."""
    if config.adapter is None:
        return load_pipeline(replace(config, unet=str(folder)))
    pipeline = load_pipeline(config)
    pipeline.load_lora_weights(str(folder))
    return pipeline


def from_subfolder(kind: Any, path: str, name: str) -> Any:
    """Weights from `path/name` (how pipelines and tuned UNets are stored), or else from the top of `path` (VAEs)."""
    try:
        return kind.from_pretrained(path, subfolder=name, dtype=torch.float32)
    except OSError:
        return kind.from_pretrained(path, dtype=torch.float32)


class FlashAttention(AttnProcessor2_0):
    """Attention by torch's flash kernel, or an error where it cannot run."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return super().__call__(*args, **kwargs)


def use_xformers(unet: Any) -> None:
    try:
        unet.enable_xformers_memory_efficient_attention()
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"base.attention xformers cannot be used ({error}); pip install xformers, or use native."
        ) from error


# diffusers' own `set_attention_backend` does nothing, silently, to the attention class that these UNets are made of.
ATTENTION: dict[str, Callable[[Any], None]] = {
    "native": lambda unet: unet.set_attn_processor(AttnProcessor2_0()),
    "flash": lambda unet: unet.set_attn_processor(FlashAttention()),
    "xformers": use_xformers,
}
