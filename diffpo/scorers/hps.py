"""HPSv2 and HPSv2.1: CLIP ViT-H/14 fine-tuned on how people ranked the pictures of HPD v2."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import init_empty_weights
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from diffpo.core.refusal import Refusal
from diffpo.scorers.checkpoints import read_saved
from diffpo.scorers.clip_parts import MEAN, STD
from diffpo.scorers.dual import DualEncoder, normalize_embeddings
from diffpo.scorers.learned import stack_pictures
from diffpo.storage.whole import fill_network

SIDE = 224


@dataclass(frozen=True, eq=False)
class HPS(DualEncoder):
    """Cosine of picture and prompt, as both releases have it (arXiv:2306.09341, github.com/tgxs002/HPSv2).

    Usually 0.2 to 0.3; published tables show 100 times that. The network needs `open_clip_torch` (the extra `eval`).

    Args:
        path: hub id or folder with the release's file, or that file itself.
        dtype: null is fp16 autocast on CUDA, as the original does (whose scores are then rounded to fp16; ours are
            not, so that close pictures do not tie), and fp32 elsewhere.

    Raises:
        Refusal: also if the name of the file says that it is the other release. Its contents cannot tell: the two
            differ in nothing but the values of their weights.
    """

    path: str = "xswu/HPSv2"
    release: ClassVar[str]
    filename: ClassVar[str]
    architecture: ClassVar[str] = "ViT-H-14"

    @property
    def name(self) -> str:
        return f"hpsv{self.release}"

    @property
    def version(self) -> str:
        kind = "float16 autocast" if self.mixes else str(self.precision).removeprefix("torch.")
        return f"v{self.release}; cosine; longest side {SIDE} bicubic, no antialiasing, zero padding; {kind}"

    @property
    def mixes(self) -> bool:
        """Whether the network runs under autocast."""
        return self.dtype is None and self.device_type == "cuda"

    def load(self) -> nn.Module:
        self.require_release()
        checkpoint = read_saved(self.path, self.filename, self.revision, f"the file {self.filename}")
        library = clip_library()
        with init_empty_weights(include_buffers=False):
            model = library.CLIP(**library.get_model_config(self.architecture))
        # Bare weights are those of a CLIP that was not tuned, and have no such key.
        fill_network(model, checkpoint.get("state_dict", {}), self.path, f"a checkpoint of HPSv{self.release}")
        return model

    def require_release(self) -> None:
        """Raise a Refusal if the name of a file says that it is the other release."""
        file = Path(self.path)
        named = re.search(r"HPS_v(2(\.1)?)", file.name) if file.is_file() else None
        if named and named[1] != self.release:
            raise Refusal(
                f"{file} is HPSv{named[1]} by its name, not HPSv{self.release}, and their scores cannot be compared; "
                f"name {self.filename}, or use the scorer of the other release."
            )

    @cached_property
    def tokenizer(self) -> Any:
        """From a list of texts to their tokens (n, words)."""
        return clip_library().get_tokenizer(self.architecture)

    def count_cut(self, prompts: Sequence[str]) -> int:
        words = self.tokenizer.context_length - 2  # those for begin and end
        return sum(len(self.tokenizer.encode(prompt)) > words for prompt in prompts)

    def embed_prompts(self, prompts: list[str]) -> Float[Tensor, "n d"]:
        with self.autocast():
            return normalize_embeddings(self.network.encode_text(self.tokenizer(prompts).to(self.place)))

    def embed_pictures(self, pictures: list[Image.Image]) -> Float[Tensor, "n d"]:
        pixels = stack_pictures(fit_picture, pictures).to(self.place, self.precision)
        with self.autocast():
            return normalize_embeddings(self.network.encode_image(pixels))

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.place.type, torch.float16, enabled=self.mixes)


@dataclass(frozen=True, eq=False)
class HPSv2(HPS):
    """The first release, which the package `hpsv2` takes when it scores single pictures."""

    release: ClassVar[str] = "2"
    filename: ClassVar[str] = "HPS_v2_compressed.pt"


@dataclass(frozen=True, eq=False)
class HPSv21(HPS):
    """Release 2.1, which the package `hpsv2` takes for its benchmark, and most later papers report."""

    release: ClassVar[str] = "2.1"
    filename: ClassVar[str] = "HPS_v2.1_compressed.pt"


def fit_picture(picture: Image.Image) -> Float[Tensor, "3 224 224"]:
    """An RGB picture resized to fit 224 x 224, the rest black, with CLIP's normalization.

    Resized are its numbers in [0, 1], bicubic without antialiasing: torchvision's default for tensors before 0.17,
    with which the published scores were made. What overshoots stays. The original fails for pictures whose longest
    side is 224 already, unless they are square: here they are padded like all others.
    """
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
    size = [round(length * (SIDE / max(picture.size))) for length in pixels.shape[1:]]
    resized = interpolate(pixels[None], size, mode="bicubic", align_corners=False)[0]
    below, right = (SIDE - length for length in size)
    whole = pad(resized, [right // 2, right - right // 2, below // 2, below - below // 2])
    return (whole - MEAN) / STD


def clip_library() -> ModuleType:
    try:
        import open_clip
    except ImportError as error:
        raise Refusal('HPS needs the package open_clip_torch; run pip install "diffpo[eval]".') from error
    return open_clip
