"""Pairs and who judged them: what a network that hears users is told (PPD, arXiv:2501.06655)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from datasets import Dataset, concatenate_datasets
from jaxtyping import Float
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.files.tables import open_table
from diffpo.data.rows import PairRow, RowMap
from diffpo.data.source import Layout, Refer
from diffpo.data.typed import Field, read_prompts
from diffpo.diffusion.users.embeddings import UserEmbeddings


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
    needs_one_source: ClassVar[bool] = True
    tells_users: ClassVar[bool] = True
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


USER, SCORES = "user_id", ("score_chosen", "score_rejected")


@dataclass(frozen=True)
class RewardUsers(Layout):
    """The multi-reward setting of PPD (arXiv:2501.06655): each scorer is a user, who prefers what it scores higher.

    The same pairs stand here once for each scorer, with its id in the column `user_id`, so scripts/embed_users.py and
    diffpo.diffusion.ForUser take them for users, and a mixture of users is a mixture of rewards. What the pairs' own
    labels say is not looked at. Equal scores are a tie, and so is a pair that a scorer could not read (null).

    Args:
        scored: folder that scripts/score_pairs.py wrote, by the id of the user that its scorer plays.

    Raises:
        Refusal: if no scorer is named, or a folder cannot be read, lacks scores or holds other columns than the
            others.
    """

    scored: dict[str, str]

    def __post_init__(self):
        if not self.scored:
            raise Refusal("RewardUsers needs folders of scored pairs; write them with scripts/score_pairs.py.")

    def open(self) -> Dataset:
        tables = []
        for user, folder in self.scored.items():
            table = open_table(folder, "train", None)
            if lacking := [name for name in SCORES if name not in table.column_names]:
                raise Refusal(f"{folder} has no column {lacking[0]!r}; score its pairs with scripts/score_pairs.py.")
            others = [name for name in table.column_names if name != USER]
            tables.append(table.select_columns(others).add_column(USER, [user] * len(table)))
        first = tables[0]
        for folder, table in zip(self.scored.values(), tables, strict=True):
            if table.features != first.features:
                odd = sorted(set(table.column_names) ^ set(first.column_names)) or "of other types"
                raise Refusal(f"{folder} differs from the first folder in columns {odd}; score the same pairs.")
        return concatenate_datasets(tables)

    @property
    def candidates(self) -> tuple[str, str]:
        return "chosen", "rejected"

    @property
    def needs(self) -> tuple[str, ...]:
        return "prompt", USER, *SCORES

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        """The side of the higher score first."""
        first, second = (Field(index, name, record[name]).number() for name in SCORES)
        scores = (0.0, 0.0) if first is None or second is None else (first, second)
        prompts, sides = read_prompts(index, record, "prompt", "prompt"), (cell("chosen"), cell("rejected"))
        prob = 0.5 if scores[0] == scores[1] else 1.0
        row = PairRow(index, **prompts, candidates=sides, prob=prob, scores=scores, extra=record)
        return row.swapped() if scores[1] > scores[0] else row
