"""From a source of pairs to batches of tokens."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather_object
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from diffpo.core.pair import PairLabels
from diffpo.core.refusal import Refusal, require_at_least
from diffpo.data.fingerprint import of_tables
from diffpo.data.mixture import interleave_sources
from diffpo.data.pairs import PairTable, RowPairs, open_tables, rows_report
from diffpo.data.rows import DropTies, PairRow, RowMap, require_order
from diffpo.data.sampler import Lengths, PairSampler, ProcessShare, Visit
from diffpo.data.source import Source
from diffpo.evaluation.prompts import Prompts
from diffpo.processes.workers import at_most, bytes_of, from_workers
from diffpo.text.data.batches import TokenBatch
from diffpo.text.data.messages import read_tools
from diffpo.text.data.rows import DropEmpty, DropIdentical, ReadTexts, RequireNumbers, count_characters, of_row
from diffpo.text.data.tokenizing import Tokenizing, Tokens, count_notes
from diffpo.train.validation import ValidationSplit

ALIKE = "are the same tokens as all others of their row, so they teach nothing"


@dataclass(frozen=True)
class TextData:
    """Which texts to train on, and how they are read.

    Rows of which a candidate is empty, or whose candidates are all the same, are dropped and counted in any case.

    Args:
        source: where they come from, e.g. diffpo.data.Columns (texts, or lists of messages) or
            diffpo.text.Conversations.
        rows: what relabels, reorders, takes apart or drops them, in this order.
        max_length: tokens of prompt and completion together. Prompts are cut on the left, those of a row alike, to
            leave room for its longest completion; a completion that does not fit by itself is cut on the right. A run
            reports how many were cut.
        max_prompt_length: prompts are cut to so many tokens in any case; null is no such limit.
        tools: column with the tools that the assistant may call, which the chat template shows: lists of structs, or
            such a list as JSON; a table need not have it. null leaves it out.
        together: rows of similar length that follow one another, best a multiple of fit.per_device_batch_size times
            processes; 1 shuffles them all. Of several sources that are mixed, rows are always shuffled.
        workers: processes per device that split texts into tokens, 2 where there are as many cores; 0 does so in the
            training process.

    Raises:
        Refusal: if a number is out of its range, row maps stand in a wrong order, or the source is of pictures.
    """

    source: Source
    rows: list[RowMap] = field(default_factory=lambda: [DropTies()])
    max_length: int = 1024
    max_prompt_length: int | None = None
    tools: str | None = "tools"
    together: int = 64
    workers: int = field(default_factory=partial(at_most, 2))

    def __post_init__(self):
        require_at_least(0, **{"data.workers": self.workers})
        if self.max_length < 2:
            raise Refusal(f"data.max_length must be at least 2, got {self.max_length}.")
        if self.max_prompt_length is not None and not 0 < self.max_prompt_length < self.max_length:
            raise Refusal(
                f"data.max_prompt_length lies between 0 and data.max_length {self.max_length}, got "
                f"{self.max_prompt_length}."
            )
        if self.together < 1:
            raise Refusal(f"data.together must be at least 1, got {self.together}.")
        require_order(self.rows)
        if pictures := [layout for layout in self.source.layouts if layout.names_pictures]:
            raise Refusal(
                f"{type(pictures[0]).__name__} reads pictures, a language model would learn paths; name a source "
                "of texts, e.g. diffpo.data.Columns, or run scripts/train_diffusion_dpo.py."
            )

    def open(self, seed: int, tokenizing: Tokenizing) -> "TextPairs":
        maps = [ReadTexts(), DropEmpty(), DropIdentical(), *self.rows, DropEmpty(), RequireNumbers()]
        tables = open_tables(self.source, maps, seed, count_characters)
        weights = self.source.shares([len(table) for table in tables])
        reader = TextReader(tokenizing, self.max_length, self.max_prompt_length, self.tools)
        return TextPairs(tables, weights, reader, seed, self.together, self.workers)


class Example(NamedTuple):
    """One visit of one row."""

    row: PairRow
    tokens: list[Tokens]
    epoch: int


@dataclass(frozen=True, eq=False)
class TextReader:
    """Turns rows into tokens, and tokens into batches."""

    tokenizing: Tokenizing
    max_length: int
    max_prompt_length: int | None = None
    tools: str | None = None

    def __call__(self, row: PairRow) -> list[Tokens]:
        """Tokens of each candidate, cut to fit.

        Raises:
            Refusal: if one cannot be written as the data have it; the row is named.
        """
        with of_row(row.id):
            tools = read_tools(row.extra.get(self.tools)) if self.tools else []
            sides = [self.tokenizing(*side, tools) for side in zip(row.prompts, row.candidates, strict=True)]
        longest = max(len(tokens.completion) for tokens in sides)
        prompt = max(1, min(self.max_length - longest, self.max_prompt_length or self.max_length))
        first = self.tokenizing.tokenizer.bos_token_id
        cut = [tokens.cut(prompt, self.max_length - min(prompt, len(tokens.prompt)), first) for tokens in sides]
        alike = len({(tokens.prompt, tokens.completion) for tokens in cut}) == 1 < len(cut)
        return [replace(tokens, notes=(*tokens.notes, ALIKE)) for tokens in cut] if alike else cut

    def collate(self, examples: list[Example]) -> TokenBatch:
        """Padded to the longest of them."""
        sides = list(zip(*(example.tokens for example in examples), strict=True))
        size = max(len(tokens.prompt) + len(tokens.completion) for side in sides for tokens in side)
        shape = len(sides), len(examples), size
        ids = torch.full(shape, self.tokenizing.pad)
        attended, scored = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
        part = torch.zeros(shape, dtype=torch.long)
        for k, side in enumerate(sides):
            for i, tokens in enumerate(side):
                begin, end = len(tokens.prompt), len(tokens.prompt) + len(tokens.completion)
                completion = torch.tensor(tokens.completion).reshape(-1, 3)
                ids[k, i, :begin] = torch.tensor(tokens.prompt)
                ids[k, i, begin:end] = completion[:, 0]
                attended[k, i, :end] = True
                scored[k, i, begin:end], part[k, i, begin:end] = completion[:, 1].bool(), completion[:, 2]
        row, epoch = tuple(example.row.id for example in examples), tuple(example.epoch for example in examples)
        flat = [tokens for side in sides for tokens in side]
        inputs = self.tokenizing.inputs(flat, size)
        return TokenBatch(
            ids, attended, scored, part, gather_text_labels(examples), row, epoch, inputs, count_notes(flat)
        )


def gather_text_labels(examples: list[Example]) -> PairLabels:
    rows = [example.row for example in examples]
    scores: Tensor = torch.tensor([row.scores for row in rows]).T
    prob, weight = torch.tensor([row.prob for row in rows]), torch.tensor([row.weight for row in rows])
    return PairLabels(prob=prob, score=scores, weight=weight)


class TextPairs(RowPairs, Dataset[Example]):
    """Rows of texts of one or several tables, split into tokens when they are visited.

    Attributes:
        seen: what was done to the texts that this process met, and how often.
        texts: how many it met.
    """

    def __init__(
        self,
        tables: list[PairTable],
        weights: tuple[float, ...],
        reader: TextReader,
        seed: int,
        together: int,
        workers: int,
    ):
        self.tables, self.weights, self.reader, self.seed, self.workers = tables, weights, reader, seed, workers
        self.groups = Lengths(tables[0].lengths, together) if len(tables) == 1 and together > 1 else None
        self.seen, self.texts = Counter[str](), 0

    @property
    def row_ids(self) -> Int[np.ndarray, " n"]:
        """Ids of all rows that may be visited."""
        return np.concatenate([table.row_ids for table in self.tables])

    @property
    def size(self) -> int:
        return sum(map(len, self.tables))

    @property
    def sizes(self) -> set[int]:
        return set[int]().union(*(table.sizes for table in self.tables))

    def sample(self) -> list[PairRow]:
        return [row for table in self.tables for row in table.sample()]

    def __getitem__(self, pick: Visit) -> Example:
        row = self.tables[pick.table][pick.index]
        return Example(row, self.reader(row), pick.epoch)

    def first(self, n: int) -> TokenBatch:
        """The first n rows (fewer if there are no more) as a batch, read in this process."""
        visits = islice(interleave_sources(self.weights), min(n, self.size))
        picks = [Visit(0, visit % len(self.tables[table]), table) for table, visit in visits]
        return self.reader.collate([self[pick] for pick in picks])

    def batches(self, share: ProcessShare) -> Iterator[TokenBatch]:
        loader = from_workers(
            self,
            self.workers,
            lambda: share.batch * bytes_of(self.first(1)),
            batch_sampler=PairSampler(tuple(map(len, self.tables)), share, self.weights, groups=self.groups),
            collate_fn=self.reader.collate,
        )
        for batch in loader:
            self.seen.update(batch.notes)
            self.texts += batch.ids.shape[0] * batch.ids.shape[1]
            yield batch

    def fingerprint(self) -> dict[str, Any]:
        return of_tables(self.tables)

    def report(self) -> str:
        """What became of the rows and their texts, over all processes; every process has to call it."""
        seen = sum((Counter(each) for each in gather_object([dict(self.seen)])), Counter[str]())
        texts = sum(gather_object([self.texts]))
        return rows_report(self.tables) + "".join(
            f" Of {texts} texts read, {n} {note}." for note, n in sorted(seen.items())
        )


@dataclass(frozen=True)
class OrdinaryTexts(Prompts):
    """Texts from whatever holds them.

    Args:
        path: txt file (a text per line), json file (a list of texts or of objects), or what else holds a table: jsonl,
            parquet, csv, a folder of them, a hub id.
        column: where in a table or object the text is.
    """

    column: str = "text"

    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class FreshAnswers:
    """Answers that a policy samples to prompts of held-out pairs, as it would at temperature 1.

    Args:
        prompts: how many are answered once each; all of them if there are fewer. Which ones is decided by the seed.
        tokens: at most so many; an answer that has not ended by then is cut. Prompts are cut on the left to leave room
            for them in data.max_length.
        seed: of prompts and draws, the same at each judgement.
        batch_size: answers at a time; part of what decides their last bits.

    Raises:
        Refusal: if a number is out of its range.
    """

    prompts: int = 64
    tokens: int = 64
    seed: int = 0
    batch_size: int = 16

    def __post_init__(self):
        counts = {"prompts": self.prompts, "tokens": self.tokens, "batch_size": self.batch_size}
        require_at_least(1, **{f"validation.fresh.{name}": count for name, count in counts.items()})
        require_at_least(0, **{"validation.fresh.seed": self.seed})


@dataclass(frozen=True)
class HeldOutTexts(ValidationSplit):
    """Held-out pairs of texts.

    Args:
        ordinary: texts that no preference is about, by which the capability loss is measured, as
            `validation/capability/loss` (`diffpo.text.CapabilityLoss`); all of them are read at each judgement. Null
            measures none.
        fresh: answers that the policy samples itself at each judgement, by which its shift from the model before
            training is measured, as `validation/shift` (`diffpo.text.DistributionShift`). Null samples none.
    """

    ordinary: OrdinaryTexts | None = None
    fresh: FreshAnswers | None = None

    def plain(self, data: TextData) -> TextData:
        return data


def read_ordinary(validation: HeldOutTexts | None) -> list[str]:
    """Texts that a validation measures the capability loss on; none if it does not.

    Raises:
        Refusal: if they cannot be read, or there are none.
    """
    if validation is None or validation.ordinary is None:
        return []
    return [record["prompt"] for record in validation.ordinary.read()]
