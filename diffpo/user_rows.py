"""Pairs and who judged them: what a network that hears users is told (PPD, arXiv:2501.06655)."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.draws import Draws
from diffpo.refusal import Refusal
from diffpo.rows import PairRow, RowMap
from diffpo.users import UserEmbeddings


@dataclass(frozen=True)
class Shots:
    """Who judged a pair, and the support chunks that speak of that user without the pair.

    Attributes:
        dropout: share of the visits at which the network hears nobody.
    """

    embeddings: UserEmbeddings
    user: str
    chunks: tuple[int, ...]
    dropout: float = 0.0

    def read(self, draws: Draws) -> Float[Tensor, "tokens width"]:
        """The user's embedding from one of the chunks, drawn anew at each visit; zeros are nobody."""
        if draws.uniform("user_dropout").item() < self.dropout:
            return torch.zeros(self.embeddings.tokens, self.embeddings.width)
        return self.embeddings.read(self.user, self.chunks[int(draws.integers("chunk", len(self.chunks)))])


@dataclass(frozen=True)
class DropUnembedded(RowMap):
    """Drop pairs of users who have no embedding, because they have too few pairs or pictures that cannot be read, and
    pairs of nobody; to stand before `ForUser`, for which each of them is an error.

    Args:
        embeddings: folder that scripts/embed_users.py wrote from the same source.
        column: with the ids of users.

    Raises:
        Refusal: if the source lacks the column, or there are no such embeddings.
    """

    script: ClassVar[str] = "scripts/embed_users.py"
    embeddings: str
    column: str = "user_id"

    @cached_property
    def users(self) -> UserEmbeddings:
        return UserEmbeddings(self.embeddings)

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        row.require(self.column, self)
        user = row.extra[self.column]
        return row if user is not None and self.users.knows(user) else None


@dataclass(frozen=True)
class ForUser(RowMap):
    """Tell the network, while it is trained, who judged a pair; the reference hears nobody.

    A pair is never visited with an embedding that was made of it: that would leak its label. It is dropped if its user
    has no other.

    Args:
        embeddings: folder that scripts/embed_users.py wrote from the same source.
        column: with the ids of users.
        dropout: share of the visits at which the user is left out, so that the network also works, and can be guided,
            without one. The paper does not tell its share; 0.1 is ours.

    Raises:
        Refusal: if `dropout` is no share, or a user has no embedding.
    """

    script: ClassVar[str] = "scripts/embed_users.py"
    embeddings: str
    column: str = "user_id"
    dropout: float = 0.1

    def __post_init__(self):
        if not 0 <= self.dropout <= 1:
            raise Refusal(f"ForUser needs a dropout in [0, 1], got {self.dropout}.")

    @cached_property
    def users(self) -> UserEmbeddings:
        return UserEmbeddings(self.embeddings)

    @cached_property
    def support(self) -> dict[tuple[str, int], frozenset[int]]:
        """Rows that each chunk was made of; filled as users are met."""
        return {}

    def __call__(self, row: PairRow, draws: Draws) -> PairRow | None:
        user = str(row.column(self.column, self))
        chunks = tuple(chunk for chunk in self.users.chunks(user) if row.id not in self.made_of(user, chunk))
        return replace(row, shots=Shots(self.users, user, chunks, self.dropout)) if chunks else None

    def made_of(self, user: str, chunk: int) -> frozenset[int]:
        if (user, chunk) not in self.support:
            self.support[user, chunk] = frozenset(self.users.pair_ids(user, chunk))
        return self.support[user, chunk]
