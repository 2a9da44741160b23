"""Who turns a few comparisons of a person into an embedding: the role behind personalization."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from huggingface_hub import try_to_load_from_cache
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffpo.core.refusal import Refusal


class Shown(NamedTuple):
    """One comparison: two RGB pictures that were made for a caption, of which a person preferred the first."""

    caption: str
    liked: Image.Image
    disliked: Image.Image


class Embedded(NamedTuple):
    """What is found of n support chunks.

    Attributes:
        tokens: embeddings in fp32, on the CPU.
        profiles: what was said about each person; empty where nothing is said.
    """

    tokens: Float[Tensor, "n tokens width"]
    profiles: list[str]


class UserEmbedder(ABC):
    """Embeds persons by support chunks: a few of the comparisons that each of them made (PPD, arXiv:2501.06655).

    Attributes:
        per_file: chunks that are stored together; a kill costs no more than the file that each process works at.
    """

    per_file: ClassVar[int]

    @property
    @abstractmethod
    def model_id(self) -> str:
        """Hub id or path of the weights."""

    @property
    @abstractmethod
    def commit(self) -> str | None:
        """Of the hub, from which the weights come; None if they are local. Known after `check`."""

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What embeddings depend on; embeddings of different identities are never mixed. Known after `check`."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Tokens of an embedding, and their width. Known after `check`."""

    @abstractmethod
    def check(self) -> None:
        """Raise a Refusal if this cannot be used, before hours of work."""

    @abstractmethod
    def __call__(self, chunks: Sequence[Sequence[Shown]]) -> Embedded:
        """An embedding for each support chunk; what else is in the batch does not matter.

        Args:
            chunks: of one comparison or more each.
        """


def embed_pairs(
    embedder: UserEmbedder, pairs: Sequence[tuple[str, Image.Image, Image.Image]]
) -> Float[Tensor, "tokens width"]:
    """The embedding of a new person; nothing is trained.

    Args:
        pairs: caption, preferred and other picture of each comparison. In training there are 4 (PPD,
            arXiv:2501.06655).

    Raises:
        Refusal: if there is none, or the embedder cannot be used.
    """
    if not pairs:
        raise Refusal("A person without comparisons has no embedding; give one (caption, liked, disliked) or more.")
    embedder.check()
    chunk = [Shown(caption, liked.convert("RGB"), disliked.convert("RGB")) for caption, liked, disliked in pairs]
    return embedder([chunk]).tokens[0]


def commit_of(path: str, revision: str | None) -> str | None:
    """The commit of the hub from which a model was loaded; None of a local one.

    Args:
        revision: branch, tag or commit that was asked for; None is the main branch.
    """
    found = None if Path(path).exists() else try_to_load_from_cache(path, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None
