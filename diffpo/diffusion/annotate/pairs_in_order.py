"""Every pair of a source once, in its order, and what is to be known of them before hours of work."""

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from datasets import Features
from jaxtyping import Bool
from tqdm import tqdm

from diffpo.core.refusal import Refusal
from diffpo.data.pairs import open_tables
from diffpo.data.rows import PairRow, RowMap
from diffpo.data.source import Source
from diffpo.data.typed import Field
from diffpo.diffusion.data.pairs import TextPrompts


class PairsInOrder:
    """The pairs that the row maps keep, one table of the source after the other.

    Attributes:
        columns: the columns of each table that are neither pictures nor other bytes.
        notes: of how many pairs each was made.
        several: whether some pair has several captions; a text that is made of them is the first.

    Raises:
        Refusal: if the source cannot be used, holds no pairs, or has another number of candidates per row.
    """

    def __init__(self, source: Source, maps: Sequence[RowMap] = (), seed: int = 0):
        self._tables = open_tables(source, [*maps, TextPrompts()], seed)
        self._begins = [0, *accumulate(map(len, self._tables))]
        self.columns: list[Features] = [table.light.features for table in self._tables]
        self.notes = sum((table.notes for table in self._tables), Counter[str]())
        self.several = any(table.several for table in self._tables)
        if (k := len(self[0].candidates)) != 2:
            raise Refusal(f"{source} has rows of k = {k}, a pair has k = 2 candidates; name a source of pairs.")

    def __len__(self) -> int:
        return self._begins[-1]

    def __getitem__(self, n: int) -> PairRow:
        table = bisect_right(self._begins, n) - 1
        return self._tables[table][n - self._begins[table]]

    def __iter__(self) -> Iterator[PairRow]:
        return map(self.__getitem__, range(len(self)))


@dataclass(frozen=True, eq=False)
class Survey:
    """What one look at all rows, but not at their pictures, says.

    Attributes:
        prompts: each once.
        per_side: whether the sides of some pair have different prompts.
        decided: whether each pair has a winner.
        digest: of prompts and labels; tells data apart that have the same path.
    """

    prompts: list[str]
    per_side: bool
    decided: Bool[np.ndarray, " n"]
    digest: str


def survey_rows(pairs: PairsInOrder, silent: bool = True) -> Survey:
    """The survey of all rows; one that takes long shows its progress."""
    prompts: dict[str, None] = {}
    per_side, decided, digest = False, np.zeros(len(pairs), dtype=bool), hashlib.sha256()
    for n, row in enumerate(tqdm(pairs, total=len(pairs), desc="reading rows", delay=5, disable=silent)):
        prompts |= dict.fromkeys(map(str, row.prompts))  # never null by now
        per_side |= row.prompts[0] != row.prompts[1]
        shared_prompt(row)  # refuses now what could not be written later
        decided[n] = row.prob != 0.5
        digest.update(json.dumps([*row.prompts, row.prob]).encode())
    return Survey(list(prompts), per_side, decided, digest.hexdigest()[:16])


def shared_prompt(row: PairRow) -> Any:
    """The prompt of both sides, else the source's, else the chosen side's.

    Raises:
        Refusal: if the source has something else under that name.
    """
    first, second = row.prompts
    return first if first == second else Field(row.id, "prompt", row.extra.get("prompt", first)).caption()
