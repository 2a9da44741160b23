"""How far a model's pictures, as a set, lie from pictures as they should be: what tuning loses, whatever it wins."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import BrokenImage, read_image
from diffpo.scorers.dual import DualEncoder

log = logging.getLogger(__name__)

TOO_FEW = "A Fréchet distance needs two pictures or more on each side; ask for more, or set frechet to null."
KINDS = {".png", ".jpg", ".jpeg", ".webp"}


class ReferencePictures(ABC):
    """Pictures that others are compared with, as a set."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What stands in the report beside every distance to them."""

    @abstractmethod
    def pictures(self) -> Iterable[Image.Image]:
        """All of them that can be read, in RGB, one after the other.

        Raises:
            Refusal: if there are none.
        """


@dataclass(frozen=True)
class PictureFolder(ReferencePictures):
    """Pictures of a folder and the folders in it, e.g. photographs, or what the base drew of the same prompts.

    Args:
        path: of the folder.
    """

    path: Path

    @property
    def identity(self) -> dict[str, Any]:
        return {"folder": str(self.path)}

    def pictures(self) -> Iterable[Image.Image]:
        files = sorted(file for file in self.path.rglob("*") if file.suffix.lower() in KINDS)
        if not files:
            raise Refusal(f"{self.path} holds no pictures ({', '.join(sorted(KINDS))}) to compare with; name others.")
        return filter(None, map(read_or_none, files))


@dataclass(frozen=True)
class FrechetDistance:
    """Fréchet distance of two sets of pictures in the features of a CLIP; 0 for the same set, lower is nearer.

    ||m1 - m2||^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), with mean and covariance of each set's embeddings of length 1; times
    100, as numbers of such features are small. FID (arXiv:1706.08500, eq. 6) is the same of Inception features, which
    suit photographs; that CLIP's tell more of others is in arXiv:2203.06026. The fewer the pictures the greater it is,
    also of equal models (arXiv:1911.07023), so only sets of one size compare, and no number compares with another
    encoder's, or with a published FID.

    Args:
        reference: what pictures should be like.
        encoder: a scorer that embeds pictures; one that the pairs were labelled by favours what was trained on them.
    """

    reference: ReferencePictures
    encoder: DualEncoder

    def check(self, drawn: int) -> None:
        """Raise a Refusal if a distance cannot be measured: before hours of work.

        Args:
            drawn: pictures of each model.
        """
        self.encoder.on("cpu").check([])  # a copy: nothing is held while training
        if min(drawn, len(list(islice(self.reference.pictures(), 2)))) < 2:
            raise Refusal(TOO_FEW)

    @property
    def identity(self) -> dict[str, Any]:
        """What stands beside the distances."""
        compared = {"reference": self.reference.identity, "reference_pictures": len(self.expected)}
        return {"encoder": self.encoder.model_id, "features": self.expected.shape[1], **compared}

    @cached_property
    def expected(self) -> Float[np.ndarray, "n d"]:
        return embed_pictures(self.encoder, self.reference.pictures())

    def __call__(self, files: Sequence[Path]) -> float:
        """Of the pictures that can be read.

        Raises:
            Refusal: if they or those of the reference are fewer than two.
        """
        found = embed_pictures(self.encoder, filter(None, map(read_or_none, files)))
        if min(len(found), len(self.expected)) < 2:
            raise Refusal(TOO_FEW)
        return 100 * frechet_distance(found, self.expected)


def read_or_none(file: Path) -> Image.Image | None:
    """A picture; None, which is told, if it cannot be read."""
    try:
        return read_image(str(file))
    except BrokenImage as error:
        log.warning(f"{file} has no part in the Fréchet distance: {error}")
        return None


@torch.inference_mode()
def embed_pictures(encoder: DualEncoder, pictures: Iterable[Image.Image]) -> Float[np.ndarray, "n d"]:
    """Embeddings of length 1, in double precision."""
    coming, found = iter(pictures), []
    while some := list(islice(coming, encoder.batch_size)):
        found.append(encoder.embed_pictures(some).double().cpu().numpy())
    return np.concatenate(found) if found else np.zeros((0, 1))


def frechet_distance(ours: Float[np.ndarray, "n d"], theirs: Float[np.ndarray, "m d"]) -> float:
    """Squared Fréchet distance of two normal distributions with mean and covariance of two sets of features.

    tr (S1 S2)^(1/2) is the sum of the singular values of R1 R2^T for any R1^T R1 = S1, R2^T R2 = S2: no root of a
    matrix that is not symmetric, which fails where covariances lack rank.
    """
    apart = ours.mean(0) - theirs.mean(0)
    roots = [root_of_covariance(features) for features in (ours, theirs)]
    shared = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return float(max(apart @ apart + sum((root**2).sum() for root in roots) - 2 * shared, 0.0))


def root_of_covariance(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    """R with R^T R = covariance."""
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(features, rowvar=False)))
    return np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
