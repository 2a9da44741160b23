"""Scorers that embed pictures and prompts apart, and compare the two by their cosine."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from diffpo.core.refusal import Refusal
from diffpo.scorers.learned import Learned, count_longer, stack_pictures
from diffpo.storage.hub import SAFE, name_failed_loads
from diffpo.storage.whole import load_whole

REMEMBERED = 2**14  # prompts; 64 MiB at 1024 numbers each


@dataclass(frozen=True, eq=False)
class DualEncoder(Learned):
    """Cosine of picture and prompt; a prompt that comes again is not encoded again."""

    @abstractmethod
    def embed_prompts(self, prompts: list[str]) -> Float[Tensor, "n d"]:
        """Embeddings of length 1."""

    @abstractmethod
    def embed_pictures(self, pictures: list[Image.Image]) -> Float[Tensor, "n d"]:
        """Embeddings of length 1."""

    @cached_property
    def encoded(self) -> dict[str, Float[Tensor, " d"]]:
        return {}

    def scale(self) -> float:
        """What the cosine is multiplied with."""
        return 1.0

    def score(self, prompts: list[str], pictures: list[Image.Image]) -> Float[Tensor, " n"]:
        if len(self.encoded) > REMEMBERED:
            self.encoded.clear()
        if new := sorted(set(prompts) - self.encoded.keys()):
            self.encoded.update(zip(new, self.embed_prompts(new), strict=True))
        texts = torch.stack([self.encoded[prompt] for prompt in prompts])
        return self.scale() * (texts * self.embed_pictures(pictures)).sum(-1)


@dataclass(frozen=True, eq=False)
class CLIP(DualEncoder):
    """A dual encoder whose weights are a `CLIPModel` of transformers.

    Args:
        processor: where tokenizer and image processor come from; null is where the weights do.
    """

    processor: str | None = None

    def load(self) -> nn.Module:
        load = partial(CLIPModel.from_pretrained, self.path, revision=self.revision or "main", dtype=torch.float32)
        return load_whole(load, self.path, "a CLIP model")

    @cached_property
    def tokenizer(self) -> Any:
        with name_failed_loads(self.prepared_by, "a tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(self.prepared_by, revision=self.prepared_at, **SAFE)
        # Where there are no files of a tokenizer, transformers makes an empty one.
        if len(tokenizer) != (known := self.network.config.text_config.vocab_size):
            raise Refusal(
                f"{self.prepared_by} has a tokenizer of {len(tokenizer)} tokens, but {self.path} was trained with "
                f"{known}; set `processor` to where its tokenizer and image processor are."
            )
        return tokenizer

    @cached_property
    def prepare(self) -> Callable[[Image.Image], Tensor]:
        """Resize, center crop and normalization by PIL and numpy, as when the scores were published."""
        with name_failed_loads(self.prepared_by, "an image processor"):
            where = {"revision": self.prepared_at, **SAFE}
            processor = AutoImageProcessor.from_pretrained(self.prepared_by, backend="pil", **where)
        return lambda picture: processor(picture, return_tensors="pt").pixel_values[0]

    @property
    def prepared_by(self) -> str:
        return self.processor or self.path

    @property
    def prepared_at(self) -> str | None:
        """Revision of `prepared_by`: `revision` is that of the weights."""
        return self.revision if self.prepared_by == self.path else None

    def check(self, prompts: Sequence[str]) -> None:
        super().check(prompts)
        _ = self.tokenizer, self.prepare

    def count_cut(self, prompts: Sequence[str]) -> int:
        return count_longer(self.tokenizer, prompts, self.words)

    def embed_prompts(self, prompts: list[str]) -> Float[Tensor, "n d"]:
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.words, return_tensors="pt"
        ).to(self.place)
        return normalize_embeddings(self.network.get_text_features(**tokens).pooler_output)

    def embed_pictures(self, pictures: list[Image.Image]) -> Float[Tensor, "n d"]:
        pixels = stack_pictures(self.prepare, pictures).to(self.place, self.precision)
        return normalize_embeddings(self.network.get_image_features(pixel_values=pixels).pooler_output)

    @property
    def words(self) -> int:
        """Tokens to which prompts are cut or padded."""
        return self.network.config.text_config.max_position_embeddings


def normalize_embeddings(embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """In fp32 also if the network computes in half precision, where close pictures would tie."""
    embeddings = embeddings.float()
    return embeddings / embeddings.norm(dim=-1, keepdim=True)
