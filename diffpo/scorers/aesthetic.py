"""LAION's aesthetic predictor: how beautiful a picture is, whatever it was asked to show."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from diffpo.scorers.checkpoints import read_saved
from diffpo.scorers.clip_parts import LinearStack, clip_pixels
from diffpo.scorers.dual import normalize_embeddings
from diffpo.scorers.learned import Learned, stack_pictures
from diffpo.storage.whole import fill_network, load_whole


@dataclass(frozen=True, eq=False)
class Aesthetic(Learned):
    """LAION aesthetic predictor v2 (github.com/christophschuhmann/improved-aesthetic-predictor), about 1 to 10.

    Linear layers on the CLIP ViT-L/14 embedding of a picture, scaled to length 1; trained on people's ratings of
    pictures without prompts, so prompts are ignored.

    Args:
        path: of the linear layers: hub id, folder or file. Default is a copy of the file in the authors' repository.
        file: its name in the hub repository or folder; in trl-lib/ddpo-aesthetic-predictor it is aesthetic-model.pth.
        tower: hub id or path of the CLIP model.
        dtype: of the tower; null is float16 on CUDA and float32 elsewhere, as in the original. The rest is in float32.
    """

    path: str = "camenduru/improved-aesthetic-predictor"
    file: str = "sac+logos+ava1-l14-linearMSE.pth"
    tower: str = "openai/clip-vit-large-patch14"

    @property
    def name(self) -> str:
        return "aesthetic"

    @property
    def model_id(self) -> str:
        head = super().model_id if Path(self.path).is_file() else f"{super().model_id}/{self.file}"
        return f"{head} on {self.tower}"

    @property
    def version(self) -> str:
        formula = f"linear layers in float32 on the embedding of length 1 in {self.precision}".replace("torch.", "")
        return f"{formula}; bicubic center crop"

    @property
    def precision(self) -> torch.dtype:
        published = torch.float16 if self.device_type == "cuda" else torch.float32
        return super().precision if self.dtype else published

    def load(self) -> nn.Module:
        load = partial(CLIPVisionModelWithProjection.from_pretrained, self.tower, dtype=torch.float32)
        return load_whole(load, self.tower, "a CLIP model", others=True)

    @cached_property
    def head(self) -> nn.Module:
        what = f"an aesthetic predictor for {self.tower}"
        layers = LinearStack(self.network.config.projection_dim)
        fill_network(
            layers, read_saved(self.path, self.file, self.revision, what), self.path, what, "layers.{}".format
        )
        return layers.requires_grad_(False).to(self.place)

    def check(self, prompts: Sequence[str]) -> None:
        super().check(prompts)
        _ = self.head

    def score(self, prompts: list[str], pictures: list[Image.Image]) -> Float[Tensor, " n"]:
        square = partial(clip_pixels, size=self.network.config.image_size)
        embeddings = self.network(stack_pictures(square, pictures).to(self.place, self.precision)).image_embeds
        return self.head(normalize_embeddings(embeddings))
