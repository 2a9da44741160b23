"""Whole bases and their parts in one file, as the first Stable Diffusion and most fine-tunes are distributed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
    fetch_diffusers_config,
    load_single_file_checkpoint,
)
from torch import Tensor

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.schedules import MARKS
from diffpo.storage.hub import name_failed_loads
from diffpo.storage.tensors import read_header
from diffpo.storage.whole import fill_network, load_whole, tell_unwrapped, unwrap_name

SINGLE_FILES = (".safetensors", ".ckpt")
UNET, VAE = ("model.diffusion_model.",), ("first_stage_model.", "vae.")
AVERAGE = "model_ema."
# Where text encoders are: those in the names of transformers' CLIP, and those in OpenCLIP's.
CLIP = {"text_encoder": ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")}
OPEN_CLIP = {"text_encoder": ("cond_stage_model.model.",), "text_encoder_2": ("conditioner.embedders.1.model.",)}
UNUSED = {"text_encoder": ("text_projection.weight", "logit_scale")}  # what contrastive training needed besides
WHOLE_BASE = "name a whole base in --base.path, and this file in --base.unet"
REMEDIES = {"UNet": "name one in --base.unet", "VAE": "name one in --base.vae"}


def is_single(path: str) -> bool:
    return path.endswith(SINGLE_FILES) or Path(path).is_file()


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A single file.

    Attributes:
        tensors: by name, without what a wrapper put before.
        metadata: of a local safetensors file, else empty.
    """

    path: str
    tensors: dict[str, Tensor]
    metadata: Mapping[str, str]

    @classmethod
    def of(cls, path: str, what: str = "a checkpoint of a whole pipeline") -> "Checkpoint":
        """What is in a file.

        Raises:
            Refusal: if it cannot be reached or read.
        """
        with name_failed_loads(path, what):
            found = named_tensors(path)
            metadata = read_header(Path(path)) if Path(path).suffix == ".safetensors" and Path(path).exists() else {}
        tell_unwrapped([name for name in found if name != unwrap_name(name)], path)
        return cls(path, {unwrap_name(name): tensor for name, tensor in found.items()}, metadata)

    def home(self) -> str:
        """Hub id of the pipeline whose architecture diffusers recognises in it."""
        return fetch_diffusers_config(self.tensors)["pretrained_model_name_or_path"]

    def unet(self, settings: Mapping[str, Any]) -> UNet2DConditionModel:
        """Its UNet, in fp32.

        Args:
            settings: the config of one of the same architecture.

        Raises:
            Refusal: if it has none, or one of another architecture.
        """
        if (state := self.plain("down_blocks.")) is None:
            bare = {f"{UNET[0]}{name}": tensor for name, tensor in self.tensors.items() if name not in MARKS}
            ours = self.beginning(UNET) or (bare if self.beginning(("input_blocks.",)) else {})
            state = self.converted(partial(convert_ldm_unet_checkpoint, config=settings), ours, "UNet")
            read = {tensor.data_ptr() for tensor in state.values()}
            if strange := [name for name, tensor in ours.items() if tensor.data_ptr() not in read]:
                raise Refusal(
                    f"{self.path} holds a UNet of another architecture: {len(strange)} of its weights have no place, "
                    f"the first is {strange[0]}; name a base.config of its own architecture."
                )
        return load_filled(UNet2DConditionModel, settings, state, self.path, "a UNet")

    def vae(self, settings: Mapping[str, Any]) -> AutoencoderKL:
        """Its VAE, in fp32; arguments and errors as of `unet`."""
        if (state := self.plain("encoder.down_blocks.")) is None:
            ours = self.beginning(VAE) or (self.tensors if self.beginning(("encoder.down.",)) else {})
            state = self.converted(partial(convert_ldm_vae_checkpoint, config=settings), ours, "VAE")
        return load_filled(AutoencoderKL, settings, state, self.path, "a VAE")

    def text_encoder(self, kind: Any, settings: Any, name: str) -> Any:
        """One of its text encoders, in fp32.

        Args:
            kind: class of transformers.
            settings: the config of one of the same architecture.
            name: of the part in a pipeline.

        Raises:
            Refusal: as of `unet`.
        """
        state: Mapping[str, Tensor]
        if ours := self.beginning(CLIP.get(name, ())):
            prefix = next(prefix for prefix in CLIP[name] if next(iter(ours)).startswith(prefix))
            state = {name.removeprefix(prefix): tensor for name, tensor in ours.items()}
        else:
            ours = self.beginning(OPEN_CLIP[name])
            prefix = next((prefix for prefix in OPEN_CLIP[name] if next(iter(ours), "").startswith(prefix)), "")
            convert = partial(convert_open_clip_checkpoint, SimpleNamespace(config=settings), prefix=prefix)
            state = self.converted(convert, ours, "text encoder")
        load = partial(kind.from_pretrained, None, config=settings, state_dict=state, dtype=torch.float32)
        return load_whole(load, self.path, f"a {name}", UNUSED.get(name, ()))

    def beginning(self, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
        """Tensors whose names begin with the first of these that there is."""
        found = ({n: tensor for n, tensor in self.tensors.items() if n.startswith(prefix)} for prefix in prefixes)
        return next(filter(None, found), {})

    def plain(self, block: str) -> dict[str, Tensor] | None:
        """All tensors, if they have the names of diffusers already; None if they have not."""
        named = any(name.startswith(block) for name in self.tensors)
        return {name: tensor for name, tensor in self.tensors.items() if name not in MARKS} if named else None

    def converted(self, convert: Callable[..., Any], ours: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
        """Tensors under the names of diffusers or transformers.

        Raises:
            Refusal: if there are none, or one is absent.
        """
        if not ours:
            averaged = f", only a moving average ({AVERAGE})" if self.beginning((AVERAGE,)) else ""
            raise Refusal(f"{self.path} holds no {what}{averaged}; {REMEDIES.get(what, WHOLE_BASE)}.")
        try:
            return convert(checkpoint=dict(ours))
        except (KeyError, IndexError) as error:
            raise Refusal(
                f"{self.path} holds a {what} of another architecture: it lacks {error}; name a base.config of its own "
                "architecture."
            ) from error


def load_filled(kind: Any, settings: Mapping[str, Any], state: Mapping[str, Tensor], path: str, what: str) -> Any:
    """A network of diffusers with weights from a file, in fp32."""
    with init_empty_weights(include_buffers=False):
        network = kind.from_config(settings)
    fill_network(network, state, path, what)
    return network.float().eval()


def named_tensors(path: str) -> dict[str, Tensor]:
    """What diffusers finds in a file; its pickled kind may hold anything."""
    try:
        found: Any = load_single_file_checkpoint(path)
    except (RuntimeError, TypeError) as error:  # it asks the object for a key
        raise ValueError(f"it holds no tensors by name ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds no tensors by name, but a {type(found).__name__}")
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}
