"""The rows of a source of texts, pairs or lists, as what a scorer is asked, and as what is written of them."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffpo.core.refusal import Refusal
from diffpo.data.pairs import open_tables
from diffpo.data.rows import PairRow, RowMap
from diffpo.data.source import Source
from diffpo.text.data.completions import Candidate, Completion
from diffpo.text.data.layouts import Lists
from diffpo.text.data.rows import DropEmpty, ReadTexts

GROUP = 1000  # rows that are written at a time
PAIR = ("prompt", "chosen", "rejected", "prompt_chosen", "prompt_rejected", "prob", "score_chosen", "score_rejected")
LIST = ("prompt", "responses", "scores")
Scores = Mapping[int, float | None]


class ScoredRows:
    """Rows that the maps keep, one table of the source after the other; answers are numbered through.

    Attributes:
        tables: of the source's layouts.
        begins: number of the first answer of each row, and at last that of all answers.
        as_lists: whether results are lists; else they are pairs.
        per_side: whether the sides of some row have different prompts.
        digest: of prompts, answers and labels; tells data apart that have the same path.

    Raises:
        Refusal: if the source cannot be used, or rows that are no pairs have several prompts.
    """

    def __init__(self, source: Source, maps: Sequence[RowMap], seed: int):
        self.tables = open_tables(source, [ReadTexts(), *maps, DropEmpty()], seed)
        self.starts = [0, *accumulate(map(len, self.tables))]
        self.row = lru_cache(64)(self._row)
        sizes, digest, self.per_side = list[int](), hashlib.sha256(), False
        for row in self:
            sizes.append(len(row.candidates))
            self.per_side |= any(prompt != row.prompts[0] for prompt in row.prompts)
            digest.update(json.dumps([row.prompts, list(map(plain_answer, row.candidates)), row.prob]).encode())
        self.begins, self.digest = [0, *accumulate(sizes)], digest.hexdigest()[:16]
        self.as_lists = any(isinstance(layout, Lists) for layout in source.layouts) or {*sizes} != {2}
        if self.as_lists and self.per_side:
            raise Refusal(
                "Rows that are no pairs have one prompt each, and some have several; name a source of pairs."
            )

    def __len__(self) -> int:
        return self.starts[-1]

    def __iter__(self) -> Iterator[PairRow]:
        return map(self._row, range(len(self)))

    def _row(self, n: int) -> PairRow:
        table = bisect_right(self.starts, n) - 1
        return self.tables[table][n - self.starts[table]]

    def question(self, number: int) -> tuple[Any, Any]:
        """Prompt and answer of a number."""
        n = bisect_right(self.begins, number) - 1
        row, side = self.row(n), number - self.begins[n]
        return row.prompts[side], plain_answer(row.candidates[side])

    def scores_of(self, n: int, scores: Scores) -> list[float | None]:
        return [scores[number] for number in range(self.begins[n], self.begins[n + 1])]

    def agreement(self, scores: Scores) -> float | None:
        """Share of the pairs with a winner in which the scorer prefers the same side; None if there are none."""
        both = [self.scores_of(n, scores) for n, row in enumerate(self) if row.prob != 0.5 and not self.as_lists]
        gaps = [chosen - rejected for chosen, rejected in both if chosen is not None and rejected is not None]
        return float(np.mean([(gap > 0) + (gap == 0) / 2 for gap in gaps])) if gaps else None

    def records(self, scores: Scores) -> Iterator[dict[str, Any]]:
        """What is written of each row; a list without an answer that could be rated is left out."""
        ours = LIST if self.as_lists else PAIR
        for n, row in enumerate(self):
            found, answers = self.scores_of(n, scores), [plain_answer(x) for x in row.candidates]
            extra = {name: x for name, x in row.extra.items() if name not in ours}
            if not self.as_lists:
                sides = dict(zip(PAIR[3:5], row.prompts, strict=True)) if self.per_side else {}
                pair = dict(zip(PAIR[1:3], answers, strict=True)) | dict(zip(PAIR[6:], found, strict=True))
                yield {"prompt": row.prompts[0], **pair, "prob": row.prob, **sides, **extra}
            elif rated := [(x, score) for x, score in zip(answers, found, strict=True) if score is not None]:
                yield dict(zip(LIST, (row.prompts[0], *map(list, zip(*rated, strict=True))), strict=True)) | extra

    def write(self, scores: Scores, file: Path) -> None:
        """One parquet file, some rows at a time, in columns of the types that all of them need."""
        groups = in_groups(self.records(scores))
        schema = pa.unify_schemas([pa.Table.from_pylist(some).schema for some in groups], promote_options="permissive")
        with pq.ParquetWriter(file, schema) as writer:
            for some in in_groups(self.records(scores)):
                writer.write_table(pa.Table.from_pylist(some, schema=schema))


def plain_answer(answer: Candidate) -> Any:
    """As a scorer is given it: a text, or messages."""
    return answer.text if isinstance(answer, Completion) else answer


def in_groups(records: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    left = iter(records)
    while some := list(islice(left, GROUP)):
        yield some
