"""What differs between the architectures of diffusers: the role that one small class each fills."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, prod
from typing import Any, ClassVar

from diffusers import AutoencoderKL
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.prediction import Prediction
from diffpo.diffusion.data.batches import Conditioning, States
from diffpo.storage.hub import name_failed_loads, name_parse_errors


@dataclass(frozen=True)
class TokenShift:
    """How far a flow's sampler moves its times towards noise, by the number of tokens of a picture.

    k in s -> k s / (1 + (k - 1) s), or its logarithm, lies on the line through two points.

    Attributes:
        tokens: of the points.
        shifts: there.
        exponential: whether these are logarithms of k, as diffusers' schedulers have it if they do not say otherwise.
    """

    tokens: tuple[int, int]
    shifts: tuple[float, float]
    exponential: bool = True

    @classmethod
    def of(cls, scheduler: Any) -> "TokenShift | None":
        """As the scheduler's config says; None if its shift depends on no tokens.

        Raises:
            Refusal: if it names one number of tokens twice.
        """
        config = scheduler.config
        if not config.get("use_dynamic_shifting", False):
            return None
        tokens = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        if tokens[0] == tokens[1]:
            raise Refusal(
                f"The base's scheduler has {tokens[0]} as base_image_seq_len and as max_image_seq_len, so that no "
                "line tells a shift by tokens; set one in base.scheduler."
            )
        shifts = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        return cls(tokens, shifts, config.get("time_shift_type", "exponential") == "exponential")

    def __call__(self, tokens: int) -> float:
        (few, many), (low, high) = self.tokens, self.shifts
        shift = low + (tokens - few) * (high - low) / (many - few)
        return exp(shift) if self.exponential else shift


@dataclass(frozen=True, eq=False)
class Path:
    """The path x_t = a(t) x_0 + s(t) eps that a network was trained on.

    Attributes:
        a: signal coefficient of each training timestep.
        s: noise coefficient of each training timestep.
        told: what the network is told of each training timestep.
        shift: of its sampler's times, if that depends on tokens.
    """

    a: Float[Tensor, " timesteps"]
    s: Float[Tensor, " timesteps"]
    told: Shaped[Tensor, " timesteps"]
    prediction: Prediction
    shift: TokenShift | None = None


class Signature(ABC):
    """How a network is called.

    Attributes:
        axes: of one picture's latents.
        patch: side of the square of latents that a transformer takes as one token.
    """

    axes: ClassVar[int] = 3
    patch: ClassVar[int] = 2

    def tokens(self, picture: Sequence[int]) -> int:
        """Of a picture whose latents have this shape."""
        return prod(picture[1:]) // self.patch**2

    @abstractmethod
    def __call__(
        self, network: nn.Module, x_t: Float[Tensor, "n ..."], told: Shaped[Tensor, " n"], cond: Conditioning
    ) -> Float[Tensor, "n ..."]:
        """The network's output for n noisy pictures, in the shape of their latents.

        Args:
            told: time of each picture, as of `Path`.
            cond: of n pictures, without the axis of sides.
        """


class Family(Signature):
    """How one architecture of diffusers is told what, and what its latents are; frozen, without state.

    Attributes:
        pipeline: class that users load.
        network: class of what is trained.
        part: its name in the pipeline, and the folder that it is saved to.
        encoders: parts that only encode and decode, each tokenizer after its text encoder.
        targets: layers that get a LoRA.
        multiple: that sides of pictures have to be of, in pixels.
        options: of the pipeline's `from_pretrained`.
        optional: parts that a pipeline may lack.
        large: text encoders that may be quantized.
        vae: class of its VAE.
        width: name in the network's config of the width of prompt states.
        guidance: what a network with embedded guidance is told in training; None if the family knows of none.
    """

    pipeline: ClassVar[Any]
    network: ClassVar[Any]
    part: ClassVar[str] = "transformer"
    encoders: ClassVar[tuple[str, ...]]
    targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    multiple: ClassVar[int] = 16
    options: ClassVar[Mapping[str, Any]] = {}
    optional: ClassVar[tuple[str, ...]] = ()
    large: ClassVar[tuple[str, ...]] = ("text_encoder",)
    vae: ClassVar[Any] = AutoencoderKL
    width: ClassVar[str] = "joint_attention_dim"
    guidance: float | None = None

    def lora_layers(self, network: Any) -> tuple[str, ...]:
        """Names of the layers of a network that get a LoRA."""
        return self.targets

    @abstractmethod
    def path(self, scheduler: Any) -> Path:
        """The path of a scheduler.

        Raises:
            Refusal: if the scheduler is for another kind of path.
        """

    def tokenizer(self, kind: Any, path: str, name: str, encoder: Any, revision: str | None = None) -> Any:
        """One tokenizer of a pipeline from a hub id or folder; arguments as of `base.tokenizers.load_tokenizer`.

        Raises:
            Refusal: if it cannot be read.
        """
        with name_failed_loads(path, f"a {name}"), name_parse_errors():
            return kind.from_pretrained(path, subfolder=name, revision=revision)

    @abstractmethod
    def states(self, parts: Any, prompts: list[str]) -> States:
        """What the text encoders make of prompts; `mask` tells the tokens of those that are padded."""

    @abstractmethod
    def reads(self, parts: Any) -> tuple[Any, int]:
        """The tokenizer that decides how long prompts may be, and the number of tokens."""

    @abstractmethod
    def posterior(self, parts: Any, pixels: Float[Tensor, "n 3 H W"]) -> tuple[Tensor, Tensor]:
        """Mean and deviation of latents, of pixels from -1 to 1; normalized but for `scaling`."""

    def scaling(self, parts: Any) -> float:
        """What latents are multiplied by after they were drawn from their posterior."""
        return 1.0

    @abstractmethod
    def decoded(self, parts: Any, latents: Float[Tensor, "n ..."]) -> Float[Tensor, "n 3 H W"]:
        """Pixels from -1 to 1 of the latents that the network sees."""

    def drawn(self, parts: Any, latents: Tensor) -> Float[Tensor, "n ..."]:
        """The network's latents of what the pipeline gives as `output_type="latent"` of square pictures."""
        return latents

    def arguments(self, guidance: float) -> dict[str, Any]:
        """Of the pipeline's call, for pictures that are guided so strongly."""
        return {"guidance_scale": guidance}

    def attend(self, network: Any, kind: str) -> None:
        """Let a network compute attention by a kernel.

        Raises:
            Refusal: if that cannot be had.
        """
        if kind != "native":
            raise Refusal(f"base.attention {kind} cannot act on a {type(network).__name__}; set it to native.")

    def checkpoint(self, network: Any) -> None:
        """Let a network recompute the activations of its blocks in the backward pass."""
        network.enable_gradient_checkpointing()

    def require_fits(self, pipeline: Any, path: str, network: str, vae: str) -> None:
        """Raise a Refusal if parts of a pipeline do not fit together, or something about them would be guessed.

        Args:
            path, network, vae: where pipeline and parts come from.
        """

    def require_place(self, network: Any, picture: Sequence[int]) -> None:
        """Raise a Refusal if a network has no place for pictures whose latents have this shape."""

    def require_width(self, network: Any, width: int, path: str) -> None:
        """Raise a Refusal if a network from a path takes prompt states of another width."""
        if network.config[self.width] != width:
            raise Refusal(
                f"{path} does not fit the text encoders: it takes states of width {network.config[self.width]}, "
                f"they give {width}; name the base that it was trained with."
            )
