"""A base model: from a hub id, folder or file to the parts that are trained, and back to files."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict
from torch import Tensor, nn

from diffpo.adapters import TRAINED, Adapter
from diffpo.diffusion.attention import ATTENTION
from diffpo.diffusion.bases import load_base, require_width
from diffpo.diffusion.conditioning import Conditioner
from diffpo.diffusion.data import ImagePairs
from diffpo.diffusion.denoiser import Denoiser, ImageBatch
from diffpo.diffusion.encoder import EncodedBatch, Encoder
from diffpo.diffusion.pixels import PixelBatch
from diffpo.diffusion.stream import ImageStream
from diffpo.draws import Draws
from diffpo.files import writing
from diffpo.references import FrozenCopy, Reference, SwitchedOff, store_matrices
from diffpo.sharding import is_sharded, whole_state


@dataclass(frozen=True)
class StableDiffusion:
    """Which base model to tune, and how: Stable Diffusion 1.x, 2.x or XL, recognised by its pipeline class.

    Args:
        path: hub id or folder of a diffusers pipeline, or a single .safetensors or .ckpt file.
        config: for a single file: folder or hub id of a pipeline with the same architecture, whose configs and
            tokenizers are taken; null fetches them from the hub.
        unet: another UNet to start from, policy and reference alike (an SFT model, say): hub id or folder, with the
            weights at its top or in `unet/`.
        vae: another VAE, found in the same way. SDXL's own overflows in fp16; diffpo encodes in fp32 in any case, and
            pipelines that run the result in fp16 take madebyollin/sdxl-vae-fp16-fix.
        scheduler: settings that replace those of the base's scheduler, e.g. {prediction_type: v_prediction} or
            {rescale_betas_zero_snr: true} (zero terminal SNR, arXiv:2305.08891).
        adapter: null tunes the whole UNet; diffpo.adapters.LoRA or WarmLoRA tune adapters inside it.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        attention: `native` lets torch choose the kernel, `flash` insists on its flash kernel, `xformers` needs that
            package.
        compile: compile the transformer blocks (torch.compile by block).
        channels_last: keep the UNet's convolutions in channels-last layout, which tensor cores compute faster.
        revision: of a hub id.
        variant: of the weight files, e.g. fp16.
    """

    path: str
    config: str | None = None
    unet: str | None = None
    vae: str | None = None
    scheduler: dict[str, Any] | None = None
    adapter: Adapter | None = None
    gradient_checkpointing: bool = False
    attention: Literal["native", "flash", "xformers"] = "native"
    compile: bool = False
    channels_last: bool = False
    revision: str | None = None
    variant: str | None = None

    def load(
        self,
        device: torch.device | str = "cpu",
        storage: torch.dtype = torch.float32,
        seed: int = 0,
        encodes: bool = True,
        draws: bool = True,
    ) -> "LoadedStableDiffusion":
        """Load what a run needs onto a device, ready to train.

        Args:
            storage: type in which frozen weights are kept where that costs no accuracy; give the type of mixed
                precision. Trainable weights and the VAE stay fp32.
            seed: of adapters that start at random.
            encodes: False if all pairs are encoded: VAE and text encoders then stay on the CPU.
            draws: False if no pictures will be drawn either: they are then not loaded at all.

        Raises:
            ValueError: if something cannot be found, or is not a text-to-image Stable Diffusion.
        """
        parts = load_pipeline(self, encodes or draws)
        encoder = Encoder.of(parts, storage) if encodes or draws else None
        if encoder and encodes:
            encoder.to(device)
        unet = parts.unet.to(device, memory_format=torch.channels_last if self.channels_last else None)
        unet.requires_grad_(self.adapter is None).train()
        if self.adapter is not None:
            self.adapter.attach(unet, seed)
            if storage != torch.float32:
                store_matrices(unet, storage)
        if self.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        ATTENTION[self.attention](unet)
        if self.compile:
            unet.compile_repeated_blocks()
        denoiser = Denoiser.from_scheduler(unet, parts.scheduler).to(device)
        return LoadedStableDiffusion(
            self, parts, encoder.conditioner if encoder and encodes else None, denoiser, storage
        )


class LoadedStableDiffusion:
    """The parts of a loaded base.

    Attributes:
        unet: the network that is trained.
        encoder: None if it was loaded for encoded pairs alone.

    Args:
        conditioner: None if it was loaded for encoded pairs alone.
    """

    def __init__(
        self,
        config: StableDiffusion,
        parts: Any,
        conditioner: Conditioner | None,
        denoiser: Denoiser,
        storage: torch.dtype,
    ):
        self.config, self.parts = config, parts
        self.encoder = None if conditioner is None else Encoder(parts.vae, conditioner)
        self.denoiser, self.storage = denoiser, storage

    @property
    def unet(self) -> Any:
        return self.denoiser.unet

    def reference(self) -> Reference:
        """The base as it is now: its own adapters switched off, or a frozen copy if all of it is trained."""
        if self.config.adapter is not None:
            return SwitchedOff(self.unet, self.config.adapter.off)
        return FrozenCopy(self.unet, None if self.storage == torch.float32 else self.storage)

    def prepare(self, model: nn.Module, raw: PixelBatch | EncodedBatch, draws: Draws) -> tuple[Denoiser, ImageBatch]:
        """What `fit` calls: the denoiser around `model`, and the batch as latents and text states."""
        return replace(self.denoiser, unet=model), self.encode(raw, draws)

    def encode(self, raw: PixelBatch | EncodedBatch, draws: Draws) -> ImageBatch:
        """Latents, sampled from the VAE's posterior with noise shared by the pair, and text states.

        Raises:
            ValueError: if pixels are given to a model that was loaded without encoders.
        """
        batch = raw.to(draws.device)
        if isinstance(batch, EncodedBatch):
            return batch.told_in(self.storage).sampled(draws)
        if self.encoder is None:
            raise ValueError(f"{self.config.path} was loaded for encoded pairs; load it with encodes=True for pixels.")
        return self.encoder(batch).sampled(draws)

    def first(self, pairs: ImagePairs | ImageStream, n: int = 4) -> tuple[ImageBatch, Draws]:
        """The first pairs, encoded: what is checked before a run.

        Raises:
            ValueError: if they were encoded by text encoders of another width than the UNet takes.
        """
        raw = pairs.first(n)
        if isinstance(raw, EncodedBatch):
            require_width(self.unet, raw.cond.prompt.shape[-1], self.config.unet or self.config.path)
        draws = Draws(pairs.seed, raw.epoch, raw.row, self.denoiser.a.device)
        return self.encode(raw, draws), draws

    def report(self) -> str:
        """What became of the prompts, over all processes; every process has to call it."""
        return self.encoder.conditioner.report() if self.encoder else ""

    def pipeline(self) -> Any:
        """A plain pipeline around the network as it is now, for previews; it shares all weights."""
        return self.parts

    def save(self, folder: Path, writes: bool = True) -> None:
        """Write what was trained: `unet/`, or `pytorch_lora_weights.safetensors`; both load in plain diffusers.

        Args:
            writes: False on all processes but one. Each has to call this, because weights may be sharded over them.

        Raises:
            RuntimeError: if the disk is full.
        """
        remedy = "Free some space; if there is a checkpoint of the last step, --resume latest then writes them."
        if self.config.adapter is None:
            state = whole_state(self.unet) if is_sharded(self.unet) else None
            if writes:
                unet = self.unet if state is None else unsharded(self.unet, state)
                with writing(f"The weights in {folder}", remedy):
                    unet.save_pretrained(folder / "unet")
            return
        trained = whole_state(self.unet, [name for name, p in self.unet.named_parameters() if p.requires_grad])
        if writes:
            layers = get_peft_model_state_dict(self.unet, state_dict=trained, adapter_name=TRAINED)
            adapter = self.unet.peft_config[TRAINED]
            metadata = adapter.to_dict() | {"target_modules": sorted(adapter.target_modules)}  # a set, in any order
            with writing(f"The weights in {folder}", remedy):
                type(self.parts).save_lora_weights(
                    folder, convert_state_dict_to_diffusers(layers), unet_lora_adapter_metadata=metadata
                )


def unsharded(unet: Any, state: dict[str, Tensor]) -> Any:
    """A network of the same configuration, outside of any mesh."""
    plain = type(unet).from_config(unet.config)
    plain.load_state_dict(state)
    return plain


def load_pipeline(config: StableDiffusion, encodes: bool = True, denoises: bool = True) -> Any:
    """The parts of a base as a plain pipeline in fp32, without safety checker; without VAE and text encoders, or
    without the UNet, if so told."""
    return load_base(
        config.path,
        config.unet,
        config.vae,
        config.config,
        config.scheduler,
        config.revision,
        config.variant,
        encodes,
        denoises,
    )


def load_tuned(config: StableDiffusion, folder: Path) -> Any:
    """The base with what `save` wrote to a folder, loaded as any user of diffusers would."""
    if config.adapter is None:
        return load_pipeline(replace(config, unet=str(folder)))
    pipeline = load_pipeline(config)
    pipeline.load_lora_weights(str(folder))
    return pipeline
