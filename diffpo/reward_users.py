"""Scorers who play users: one network for several rewards at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, concatenate_datasets

from diffpo.refusal import Refusal
from diffpo.rows import PairRow
from diffpo.sources import Layout, Refer
from diffpo.tables import open_table
from diffpo.typed import Field, asked

USER, SCORES = "user_id", ("score_chosen", "score_rejected")


@dataclass(frozen=True)
class RewardUsers(Layout):
    """The multi-reward setting of PPD (arXiv:2501.06655): each scorer is a user, who prefers what it scores higher.

    The same pairs stand here once for each scorer, with its id in the column `user_id`, so scripts/embed_users.py and
    diffpo.user_rows.ForUser take them for users, and a mixture of users is a mixture of rewards. What the pairs' own
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
        prompts, sides = asked(index, record, "prompt", "prompt"), (cell("chosen"), cell("rejected"))
        prob = 0.5 if scores[0] == scores[1] else 1.0
        row = PairRow(index, **prompts, candidates=sides, prob=prob, scores=scores, extra=record)
        return row.swapped() if scores[1] > scores[0] else row
