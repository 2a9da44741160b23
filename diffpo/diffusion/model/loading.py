"""A base model: from a hub id, folder or file to the parts that are trained, and back to files."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffpo.core.draws import Draws
from diffpo.core.references import FrozenCopy, Reference, SwitchedOff, store_matrices
from diffpo.core.refusal import Refusal
from diffpo.core.sharding import is_sharded, whole_state
from diffpo.diffusion.base.family import Family
from diffpo.diffusion.base.quantize import FULL, Kind, Quantizing, Storing, quantized_layers, require_known
from diffpo.diffusion.data.batches import Conditioning, EncodedBatch, ImageBatch, PosteriorBatch, PromptBatch, Raw
from diffpo.diffusion.data.pairs import ImagePairs, Unencoded
from diffpo.diffusion.data.stream import ImageStream
from diffpo.diffusion.model.conditioning import Conditioner
from diffpo.diffusion.model.denoiser import Denoiser
from diffpo.diffusion.model.encoder import Encoder
from diffpo.diffusion.model.pipeline import Encodes, family_of, load_base
from diffpo.storage.digests import forget_exported, name_exported
from diffpo.storage.files import name_failed_writes
from diffpo.train.adapters import Adapter

QUANTIZE_TEXTS = "quantize_text_encoders"


@dataclass(frozen=True)
class StableDiffusion:
    """Which base model to tune, and how: Stable Diffusion 1.x, 2.x or XL, or a base of another `family`.

    Args:
        path: hub id or folder of a diffusers pipeline, or a single .safetensors or .ckpt file.
        config: for a single file: folder or hub id of a pipeline with the same architecture, whose configs and
            tokenizers are taken; null fetches them from the hub. Of a `unet` or `vae` in a single file, too: null is
            then the architecture of `path`.
        unet: another network to start from, policy and reference alike (an SFT model, say): hub id or folder, with the
            weights at its top or in `unet/` (of transformers `transformer/`), or a single file of a UNet.
        vae: another VAE, found in the same way. SDXL's own overflows in fp16; diffpo encodes in fp32 in any case, and
            pipelines that run the result in fp16 take madebyollin/sdxl-vae-fp16-fix.
        scheduler: settings that replace those of the base's scheduler, e.g. {prediction_type: v_prediction} or
            {rescale_betas_zero_snr: true} (zero terminal SNR, arXiv:2305.08891).
        adapter: null tunes the whole network; diffpo.diffusion.LoRA or WarmLoRA tune adapters inside it,
            diffpo.diffusion.UserBranch a part that hears users.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        one_side_at_a_time: activations of one candidate of each pair at a time: about half of them, by one more
            forward pass. Gradients stay the same up to rounding, but adapters with dropout draw other masks.
        attention: `native` lets torch choose the kernel, `flash` insists on its flash kernel, `xformers` needs that
            package.
        compile: compile the transformer blocks (torch.compile by block); of SD3, Sana and PixArt diffusers names none.
        channels_last: keep the UNet's convolutions in channels-last layout, which tensor cores compute faster.
        revision: of a hub id.
        variant: of the weight files, e.g. fp16; of parts that have none, the others are taken, which is told.
        family: the architecture, e.g. diffpo.diffusion.families.SD3; null is Stable Diffusion 1.x, 2.x or XL,
            whichever the pipeline is.
        quantize: the frozen network of a family's transformer under a LoRA in few bits; null is none. `int8` and `fp8`
            are weights by torchao, `nf4` and `llm_int8` those of bitsandbytes, which needs a GPU.
        quantize_text_encoders: the large text encoders of a family (T5, Gemma, Qwen) in few bits, as `quantize` has
            them; null is none. Pairs that are encoded so are told apart from others.
        offload_text_encoders: keep the text encoders on the CPU and move them to the device for each batch of prompts
            alone: their memory for the time of two copies.

    Raises:
        Refusal: if quantized weights would be trained, or those of a UNet or of small text encoders be quantized.
    """

    path: str
    config: str | None = None
    unet: str | None = None
    vae: str | None = None
    scheduler: dict[str, Any] | None = None
    adapter: Adapter | None = None
    gradient_checkpointing: bool = False
    one_side_at_a_time: bool = False
    attention: Literal["native", "flash", "xformers"] = "native"
    compile: bool = False
    channels_last: bool = False
    revision: str | None = None
    variant: str | None = None
    family: Family | None = None
    quantize: Kind | None = None
    quantize_text_encoders: Kind | None = None
    offload_text_encoders: bool = False

    def __post_init__(self):
        self._require_texts()
        if self.quantize is None:
            return
        require_known(self.quantize)
        if self.family is None or self.family.part == "unet":
            raise Refusal(
                "base.quantize is for transformers: most weights of Stable Diffusion's UNets are convolutions, which "
                "stay as they are; set it to null, or base.family to that of another base."
            )
        if self.adapter is None:
            raise Refusal(
                "Quantized weights cannot be trained; set base.adapter, e.g. to diffpo.diffusion.LoRA, or "
                "base.quantize to null."
            )

    def _require_texts(self) -> None:
        """Raise a Refusal if text encoders would be quantized that cannot be."""
        if self.quantize_text_encoders is None:
            return
        require_known(self.quantize_text_encoders, QUANTIZE_TEXTS)
        if self.family is None or not self.family.large:
            raise Refusal(
                f"base.{QUANTIZE_TEXTS} is for large text encoders, which Stable Diffusion 1.x, 2.x and XL have not; "
                "set it to null, or base.family to that of another base."
            )

    def load(
        self,
        device: torch.device | str = "cpu",
        storage: torch.dtype = torch.float32,
        seed: int = 0,
        encodes: Unencoded = True,
        draws: bool = True,
        unconditional: bool = False,
    ) -> "LoadedStableDiffusion":
        """Load what a run needs onto a device, ready to train.

        Args:
            storage: type in which frozen weights are kept where that costs no accuracy; give the type of mixed
                precision. Trainable weights and the VAE stay fp32.
            seed: of adapters that start at random.
            encodes: False if all pairs are encoded: VAE and text encoders then stay on the CPU. "prompts" if pictures
                are and prompts are not: the VAE alone then stays there.
            draws: False if no pictures will be drawn either: what stays there is then not loaded at all.
            unconditional: True if batches have to tell what the network sees without a prompt.

        Raises:
            Refusal: if something cannot be found, or is not a text-to-image Stable Diffusion.
        """
        reads = encodes is True or draws or ("prompts" if encodes or unconditional else False)
        parts = load_pipeline(self, reads, storing=self.storing(storage))
        family = self.family or family_of(parts)
        encoder = Encoder.of(parts, storage, family, self.offload_text_encoders) if reads else None
        if encoder and encodes is True:
            encoder.vae.to(device)
        if encoder and encodes and not self.offload_text_encoders:
            encoder.conditioner.to(device)
        unet = parts.components[family.part].to(
            device, memory_format=torch.channels_last if self.channels_last else None
        )
        unet.requires_grad_(self.adapter is None).train()
        family.attend(unet, self.attention)
        few = [] if self.quantize is None else list(quantized_layers(unet).values())
        if self.adapter is not None:
            self.adapter.tell_untold(parts, self.path)
            self.adapter.suited(family.lora_layers(unet)).attach(unet, seed)
            if storage != torch.float32:
                store_matrices(unet, storage, few)
        if self.gradient_checkpointing:
            family.checkpoint(unet)
        if self.compile:
            if not unet._repeated_blocks:
                raise Refusal(
                    f"diffusers names no blocks of a {type(unet).__name__} to compile; set base.compile to false."
                )
            unet.compile_repeated_blocks()
        denoiser = Denoiser.from_scheduler(unet, parts.scheduler, family).to(device)
        denoiser = replace(denoiser, one_side_at_a_time=self.one_side_at_a_time)
        empty = encoder.conditioner.empty().map(lambda x: x.to(device)) if encoder and unconditional else None
        conditioner = encoder.conditioner if encoder and encodes else None
        return LoadedStableDiffusion(self, parts, conditioner, denoiser, storage, empty)

    def storing(self, storage: torch.dtype, denoises: bool = True) -> Storing:
        """In which types parts are loaded for mixed precision of a type.

        Args:
            denoises: whether the network is among them.

        Raises:
            Refusal: if something cannot be quantized here.
        """
        of_texts = self.quantize_text_encoders
        return Storing(
            torch.float32 if self.adapter is None or self.adapter.reads_base else storage,
            storage,
            None if self.quantize is None or not denoises else Quantizing(self.quantize, storage),
            None if of_texts is None else Quantizing(of_texts, storage, QUANTIZE_TEXTS),
        )


class LoadedStableDiffusion:
    """The parts of a loaded base.

    Attributes:
        unet: the network that is trained.
        exported: names of the weights that it was loaded with; what an objective attaches is not among them.
        encoder: None if it was loaded for encoded pairs alone.
        empty: the empty prompt, if it was asked for.

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
        empty: Conditioning | None = None,
    ):
        self.config, self.parts, self.empty = config, parts, empty
        self.encoder = None if conditioner is None else Encoder(parts.vae, conditioner)
        self.denoiser, self.storage = denoiser, storage
        self.exported = tuple(denoiser.unet.state_dict())

    @property
    def unet(self) -> Any:
        return self.denoiser.unet

    @property
    def network(self) -> Any:
        """What is trained, by the name that networks of all tracks have."""
        return self.unet

    @property
    def family(self) -> Family:
        return self.config.family or family_of(self.parts)

    def reference(self) -> Reference:
        """The base as it is now: its own adapters switched off, or a frozen copy if all of it is trained."""
        if self.config.adapter is not None:
            return SwitchedOff(self.unet, self.config.adapter.off)
        return FrozenCopy(self.unet, None if self.storage == torch.float32 else self.storage)

    def prepare(self, model: nn.Module, raw: Raw, draws: Draws) -> tuple[Denoiser, ImageBatch]:
        """What `fit` calls: the denoiser around `model`, and the batch as latents and text states."""
        return replace(self.denoiser, unet=model), replace(self.encode(raw, draws), empty=self.empty)

    def encode(self, raw: Raw, draws: Draws) -> ImageBatch:
        """Latents, sampled from the VAE's posterior with noise shared by the pair, and text states.

        Raises:
            Refusal: if pixels or prompts are given to a model that was loaded without encoders.
        """
        batch = raw.to(draws.device)
        if isinstance(batch, EncodedBatch):
            return batch.told_in(self.storage).sampled(draws)
        if self.encoder is None:
            raise Refusal(
                f"{self.config.path} was loaded for encoded pairs; load it with encodes=True for pixels, and with "
                'encodes="prompts" for pairs whose pictures alone are encoded.'
            )
        if isinstance(batch, PosteriorBatch):
            return batch.told(self.encoder.conditioner(batch)).told_in(self.storage).sampled(draws)
        return self.encoder.blank(batch) if isinstance(batch, PromptBatch) else self.encoder(batch).sampled(draws)

    def first(self, pairs: ImagePairs | ImageStream, n: int = 4) -> tuple[ImageBatch, Draws]:
        """The first pairs, encoded: what is checked before a run.

        Raises:
            Refusal: if they were encoded by text encoders of another width than the UNet takes, or are larger.
        """
        raw = pairs.first(n)
        if isinstance(raw, EncodedBatch):
            width = raw.cond.states["prompt"].shape[-1]
            self.family.require_width(self.unet, width, self.config.unet or self.config.path)
        draws = Draws(pairs.seed, raw.epoch, raw.row, self.denoiser.a.device)
        batch = self.encode(raw, draws)
        self.family.require_place(self.unet, batch.latents.shape[2:])
        return batch, draws

    def report(self) -> str:
        """What became of the prompts, over all processes; every process has to call it."""
        return self.encoder.conditioner.report() if self.encoder else ""

    def pipeline(self) -> Any:
        """A plain pipeline around the network as it is now, for previews; it shares all weights."""
        return self.parts

    def save(self, folder: Path, writes: bool = True) -> None:
        """Write what was trained: the folder of the network, or the adapter's files; and at last `files.json` with
        their digests.

        Args:
            writes: False on all processes but one. Each has to call this, because weights may be sharded over them.

        Raises:
            Refusal: if the disk is full.
        """
        then = "if there is a checkpoint of the last step, --resume latest then writes them"
        with name_failed_writes(f"The weights in {folder}", then):
            if writes:
                folder.mkdir(parents=True, exist_ok=True)
                forget_exported(folder)
            self._write(folder, writes)
            if writes:
                name_exported(folder)

    def _write(self, folder: Path, writes: bool) -> None:
        if self.config.adapter is not None:
            self.config.adapter.save(self.parts, folder, writes)
            return
        attached = len(self.unet.state_dict()) > len(self.exported)
        state = whole_state(self.unet, self.exported, writes) if attached or is_sharded(self.unet) else None
        if writes:
            unet = self.unet if state is None else strip_network(self.unet, state)
            unet.save_pretrained(folder / self.family.part)


def strip_network(unet: Any, state: dict[str, Tensor]) -> Any:
    """A network of the same configuration, outside of any mesh and without what an objective has attached."""
    plain = type(unet).from_config(unet.config)
    plain.load_state_dict(state)
    return plain


def load_pipeline(
    config: StableDiffusion, encodes: Encodes = True, denoises: bool = True, storing: Storing = FULL
) -> Any:
    """The parts of a base as a plain pipeline, without safety checker; without VAE or text encoders, or without the
    UNet, if so told, see `load_base`. In fp32, and nothing quantized, unless that is said beside the config."""
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
        config.family,
        storing,
    )


def load_tuned(config: StableDiffusion, folder: Path) -> Any:
    """The base with what `save` wrote to a folder, loaded as any user would."""
    if config.adapter is None:
        return load_pipeline(replace(config, unet=str(folder)))
    pipeline = load_pipeline(config)
    config.adapter.load(pipeline, folder)
    return pipeline
