"""A source seen through its row maps."""

import math
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from diffpo.core.draws import Draws
from diffpo.core.objective import Objective
from diffpo.core.refusal import Refusal
from diffpo.data.files.records import Cell, records
from diffpo.data.files.tables import heavy_columns, require_columns, require_unicode
from diffpo.data.rows import PairRow, RowMap, apply_maps
from diffpo.data.sampler import ProcessShare
from diffpo.data.source import Layout, Source
from diffpo.data.typed import FIRST, SEVERAL


@runtime_checkable
class Batch(Protocol):
    """Collated visits, whatever they are of.

    Attributes:
        epoch, row: keys of the random draws about each of them.
    """

    @property
    def epoch(self) -> tuple[int, ...]: ...

    @property
    def row(self) -> tuple[int, ...]: ...

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with each tensor changed."""
        ...

    def to(self, device: torch.device) -> "Batch": ...

    def pin_memory(self) -> "Batch": ...


class Pairs(ABC):
    """What `fit` trains on: encoded by the track, visited in an order that is a pure function of seed and position."""

    @property
    @abstractmethod
    def size(self) -> int | None:
        """Pairs in an epoch; None for a stream, which does not know."""

    @abstractmethod
    def batches(self, share: ProcessShare) -> Iterable[Batch]:
        """Endless collated batches from number `share.first` on."""

    def fingerprint(self) -> dict[str, Any]:
        """What tells these data from others that may take their place between two starts of a run; JSON."""
        return {}


class RowPairs(Pairs):
    """Pairs that are made of rows."""

    @property
    @abstractmethod
    def sizes(self) -> set[int]:
        """Numbers of candidates that rows have."""

    @abstractmethod
    def sample(self) -> list[PairRow]:
        """Rows from all over the data, with their candidates unread."""

    @abstractmethod
    def report(self) -> str:
        """What became of the rows, over all processes; every process has to call it."""


OF_TRACK = {
    "pictures": ("diffpo.diffusion.DenoisingPreference", "scripts/train_diffusion_dpo.py"),
    "texts": ("diffpo.text.SequencePreference", "scripts/train_text_dpo.py"),
}


def require_track(objective: Objective, track: str) -> None:
    """Raise a Refusal if an objective learns from the other one of pictures and texts."""
    if (wanted := objective.learns_from) not in ("", track):
        raise Refusal(
            f"{type(objective).__module__}.{type(objective).__name__} learns from {wanted}, here are {track}; choose "
            f"another objective, e.g. {OF_TRACK[track][0]}, or run {OF_TRACK[wanted][1]}."
        )


def require_suits(objective: Objective, pairs: RowPairs) -> None:
    """Refuse rows that an objective cannot learn from, before anything is loaded.

    Raises:
        Refusal: if rows have other numbers of candidates than the objective takes, or if they lack what it needs.
    """
    required, name = objective.requires, type(objective).__name__
    takes = required.candidates
    if odd := [k for k in sorted(pairs.sizes) if not takes.allow(k)]:
        raise Refusal(f"{name} takes {takes} candidates per row, rows have {odd[0]}; {takes.remedy}.")
    if len(pairs.sizes) > 1:
        raise Refusal(
            f"Rows have {' or '.join(map(str, sorted(pairs.sizes)))} candidates, a batch needs equally many; let the "
            "row map diffpo.text.ListOf come first."
        )
    rows = pairs.sample() if required.of_rows else []
    for need in required.of_rows:
        if not need.met(rows):
            raise Refusal(f"{need.asker} needs {need.what}; {need.remedy}.")


Measure = Callable[[PairRow], int]
REMEDIES = {"prompt": "DropPromptless", "label": "DropUnlabeled"}
LOOKED_AT = 1000  # rows of a table, at equal distances


def unmeasured(row: PairRow) -> int:
    return 0


def find_lack(row: PairRow) -> str | None:
    """What a row cannot do without and does not have; None if it has all."""
    return "prompt" if None in row.prompts else "label" if math.isnan(row.prob) else None


class PairTable:
    """Rows of one layout after its row maps. Candidates stay on disk until a row's are read.

    Every row passes through the maps once here, to find which are kept, and again whenever it is visited, so memory
    holds five integers per pair whatever the size of the table.

    Attributes:
        kept: positions of the rows that no map dropped.
        row_ids: their ids.
        dropped: how many rows each map dropped, by name.
        notes: of how many kept rows each was made.
        scored: how many kept rows have a score; that of others counts as 0.
        ids: how many ids its rows take up.
        shapes: number of the shape of each kept row's pictures; None if all have one.
        users: number of each kept row's user, 0 if it has none.
        lengths: what `measure` says of each kept row.
        sizes: numbers of candidates that kept rows have.

    Args:
        first_id: id of the first row of the table.
        measure: of a row, for an order in which similar ones stand together.

    Raises:
        Refusal: if a column is missing, a kept row has no prompt or no label, or no row is left that weighs anything.
    """

    def __init__(
        self, source: Layout, maps: list[RowMap], seed: int, first_id: int = 0, measure: Measure = unmeasured
    ):
        self.source, self.maps, self.seed, self.first_id, self.measure = source, maps, seed, first_id, measure
        table = source.open()
        require_columns(table.column_names, [*source.candidates, *source.needs], source)
        self.cells = source.cells(table)
        heavy = (heavy_columns(table.features) | set(source.candidates)) - set(source.needs)
        self.light = table.remove_columns([name for name in table.column_names if name in heavy])
        require_unicode(self.light)
        self.dropped: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.scored = 0
        found = np.fromiter(self._scan(len(table)), dtype=np.dtype((np.int64, 5)))
        self.kept, self.row_ids, self.users, self.lengths, sizes = found.T
        self.sizes = set(np.unique(sizes).tolist())
        self.ids = source.ids(len(table))
        shapes = source.shapes(table)
        self.shapes = None if shapes is None else shapes[self.kept]
        if not len(self.kept):
            lost = ", ".join(f"{name} dropped {n}" for name, n in self.dropped.items())
            raise Refusal(f"No pairs left of {len(table)} rows of {source}: {lost}; change data.source or data.rows.")

    @property
    def several(self) -> bool:
        """Whether some row has several captions, as its source gives it."""
        return not {SEVERAL, FIRST}.isdisjoint(self.notes)

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> PairRow:
        row = int(self.kept[index])
        found = self._mapped(row, self.light[row])
        assert isinstance(found, PairRow)
        return found

    def sample(self) -> list[PairRow]:
        """Rows at equal distances."""
        places = np.linspace(0, len(self) - 1, min(len(self), LOOKED_AT))
        return [self[int(place)] for place in places]

    def _scan(self, rows: int) -> Iterator[tuple[int, int, int, int, int]]:
        lacking: dict[str, list[int]] = defaultdict(list)
        users: dict[str, int] = {}
        kept, weighs = 0, False
        for row, record in enumerate(records(self.light)):
            found = self._mapped(row, record)
            if isinstance(found, PairRow):
                if (lacks := find_lack(found)) is not None:
                    lacking[lacks].append(row)
                self.notes.update(found.notes)
                self.scored += any(found.scores)
                kept, weighs = kept + 1, weighs or found.weight != 0
                user = users.setdefault(found.shots.user, len(users)) if found.shots else 0
                yield row, found.id, user, self.measure(found), len(found.candidates)
            else:
                self.dropped[type(found).__name__] += 1
        if kept and not weighs:
            raise Refusal(f"Each of {kept} pairs has weight 0, so nothing would be learned; weigh them otherwise.")
        for lacks, those in lacking.items():
            raise Refusal(
                f"{len(those)} of {rows} rows have no {lacks} (it is null), the first is row {those[0]}; "
                f"fix the data, or drop such rows with --data.rows+=diffpo.data.{REMEDIES[lacks]}."
            )

    def _mapped(self, index: int, record: Mapping[str, Any]) -> PairRow | RowMap:
        def cell(column: str) -> Cell:
            return Cell(self.cells[column], index, column, *self.source.bounds)

        row = self.source.row(index, record, cell)
        if self.first_id:
            row = replace(row, id=self.first_id + row.id)
        return apply_maps(row, self.maps, Draws(self.seed, (0,), (row.id,)))


def open_tables(source: Source, maps: list[RowMap], seed: int, measure: Measure = unmeasured) -> list[PairTable]:
    """The tables of a source's layouts; ids of rows count on from one to the next.

    Raises:
        Refusal: if one cannot be used (it is named), or if they differ in the number of candidates per row.
    """
    require_one_scorer(source, maps)
    if len(source.layouts) > 1 and any(row_map.needs_one_source for row_map in maps):
        raise Refusal("Embeddings of users belong to one source, and several are mixed; train on one of them.")
    tables: list[PairTable] = []
    for layout in source.layouts:
        first_id = sum(table.ids for table in tables)
        with named_if_mixed(layout, source):
            tables.append(PairTable(layout, maps, seed, first_id, measure))
    require_equal([max(table.sizes) for table in tables], source)
    return tables


@contextmanager
def named_if_mixed(layout: Layout, source: Source) -> Iterator[None]:
    """Say which of several sources an error is about."""
    try:
        yield
    except Refusal as error:
        if len(source.layouts) == 1:
            raise
        raise Refusal(f"Of the sources that are mixed, {layout} fails: {error}") from error


def require_one_scorer(source: Source, maps: Sequence[RowMap]) -> None:
    """Raise a Refusal if labels are to be made of scores of several scorers, whose ranges differ."""
    folders = [layout.folder for layout in source.layouts]
    scorers = [scorer for row_map in maps for scorer in row_map.scorers_of(folders)]
    if other := [scorer for scorer in scorers if scorer != scorers[0]]:
        raise Refusal(
            f"ScoreLabel would compare scores of {scorers[0]} and {other[0]}, whose ranges differ; score all "
            "sources by one scorer (scripts/score_pairs.py) and name its scores.json as recorded, or train apart."
        )


def require_equal(candidates: Collection[int], source: Source) -> None:
    """Raise a Refusal if rows of different numbers of candidates were mixed."""
    if len(set(candidates)) > 1:
        said = ", ".join(f"{type(layout).__name__} {k}" for layout, k in zip(source.layouts, candidates, strict=True))
        raise Refusal(f"Sources that are mixed need equally many candidates per row, here are {said}; train apart.")


def rows_report(tables: Sequence[PairTable], passed_over: str = "") -> str:
    """What became of the rows of tables, as a sentence.

    Args:
        passed_over: what was lost after the maps.
    """
    rows = sum(len(table.light) for table in tables)
    dropped = sum((table.dropped for table in tables), Counter[str]())
    noted = sum((table.notes for table in tables), Counter[str]())
    lost = "".join(f", {name} dropped {n}" for name, n in dropped.items())
    lost += "".join(f"; {n} {note}" for note, n in noted.items())
    kept, scored = sum(map(len, tables)), sum(table.scored for table in tables)
    if 0 < scored < kept:
        lost += f"; {kept - scored} have no score (a loss that needs one takes 0), {scored} have one"
    return f"{kept} of {rows} rows were kept{lost}{passed_over}."
