"""Networks of transformers that write texts: loaded when they are first used, each text with draws of its own."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoProcessor, LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from diffpo.annotators.captioners.roles import Speaker
from diffpo.core.refusal import Refusal, require_at_least
from diffpo.processes.devices import device_of
from diffpo.storage.hub import SAFE, name_failed_loads
from diffpo.storage.whole import load_whole

T = TypeVar("T")


class Keyed(LogitsProcessor):
    """Sampling in which each text has a generator of its own, so that it does not depend on the rest of the batch.

    argmax_i (logit_i - log E_i) with independent E_i ~ Exp(1) is a draw from softmax(logits) (the Gumbel-max trick).

    Args:
        seeds: one per text.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device):
        self.rngs = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Int[Tensor, "b t"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        noise = torch.empty_like(scores, dtype=torch.float32)
        for row, rng in zip(noise, self.rngs, strict=True):
            row.exponential_(generator=rng)
        return scores.float() - noise.clamp(min=1e-38).log()


@dataclass(frozen=True, eq=False)
class Pretrained(Speaker, ABC):
    """A generative network of transformers.

    Args:
        path: hub id, or a local path.
        revision: of a hub id.
        device: null is the accelerator if there is one, else the CPU.
        dtype: of the weights; null is that in which they are stored.
        batch_size: texts that are written at a time.
        max_tokens: of a text; what is longer is cut off.
        temperature: of the draws; 0 always takes the likeliest token (so that another try gives nothing else).
        top_p: the likeliest tokens that together have this probability can be drawn.

    Raises:
        Refusal: when it is checked or first used, if there are no such weights or they are of another kind.
    """

    path: str
    revision: str | None = None
    device: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    batch_size: int = 8
    max_tokens: int = 128
    temperature: float = 0.2
    top_p: float = 1.0

    kind: ClassVar[str]
    """What the network has to be, in words."""
    classes: ClassVar[Any]
    """Class of transformers whose `from_pretrained` loads it."""

    @classmethod
    @abstractmethod
    def suits(cls, config: Any) -> bool:
        """Whether a configuration is that of such a network."""

    @property
    def identity(self) -> dict[str, Any]:
        where = f"{self.path}@{self.revision}" if self.revision else self.path
        about = {"kind": type(self).__name__, "model_id": where, "dtype": self.dtype, "max_tokens": self.max_tokens}
        return about | {"temperature": self.temperature, "top_p": self.top_p} | self.asks

    @property
    def asks(self) -> dict[str, Any]:
        """What else the texts depend on, e.g. the instruction."""
        return {}

    def check(self) -> None:
        require_at_least(1, batch_size=self.batch_size, max_tokens=self.max_tokens)
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise Refusal(
                f"{type(self).__name__} needs temperature >= 0 and top_p in (0, 1], got {self.temperature} and "
                f"{self.top_p}."
            )
        with name_failed_loads(self.path, self.kind):
            config = AutoConfig.from_pretrained(self.path, revision=self.revision, **SAFE)
        if not self.suits(config):
            raise Refusal(
                f"{self.path} is a {config.model_type}, {type(self).__name__} needs {self.kind}; name another one."
            )
        _ = self.processor

    @cached_property
    def processor(self) -> Any:
        with name_failed_loads(self.path, f"the processor of {self.kind}"):
            return AutoProcessor.from_pretrained(self.path, revision=self.revision, **SAFE)

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def place(self) -> torch.device:
        return device_of(self.device)

    @cached_property
    def network(self) -> nn.Module:
        load = partial(
            self.classes.from_pretrained, self.path, revision=self.revision, dtype=self.dtype or "auto", **SAFE
        )
        network = load_whole(load, self.path, self.kind, others=True)
        return network.requires_grad_(False).eval().to(self.place)

    def rest(self) -> None:
        vars(self).pop("network", None)  # where cached_property keeps it
        if self.place.type == "cuda":
            torch.cuda.empty_cache()

    def in_batches(self, items: Sequence[T], seeds: Sequence[int]) -> list[tuple[Sequence[T], Sequence[int]]]:
        begins = range(0, len(items), self.batch_size)
        return [(items[i : i + self.batch_size], seeds[i : i + self.batch_size]) for i in begins]

    @torch.inference_mode()
    def written(self, inputs: Any, seeds: Sequence[int], **options: Any) -> Int[Tensor, "b t"]:
        """Tokens that the network writes; for decoders alone those of the inputs come first.

        Args:
            inputs: what a processor made; pictures are turned to the type of the weights.
        """
        network: Any = self.network
        tensors = {
            name: tensor.to(self.place, network.dtype if tensor.is_floating_point() else tensor.dtype)
            for name, tensor in inputs.items()
        }
        draws: list[LogitsProcessor] = []
        if self.temperature > 0:
            draws = [TemperatureLogitsWarper(self.temperature), TopPLogitsWarper(self.top_p), Keyed(seeds, self.place)]
        plain = {"do_sample": False, "num_beams": 1, "max_new_tokens": self.max_tokens}
        return network.generate(**tensors, **plain, logits_processor=draws, **options)
