"""Pictures of one prompt that people ranked, or judged in lists: all their pairs."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

from datasets import Dataset, IterableDataset

from diffpo.core.refusal import Refusal
from diffpo.data.files.records import Held
from diffpo.data.files.tables import leave_undecoded, require_columns
from diffpo.data.rows import PairRow
from diffpo.data.source import FileLayout, Refer
from diffpo.data.typed import Field, is_null, read_prompts, show_value


class Ranking(NamedTuple):
    """The pictures of one prompt, by number or by path, and their ranks; lower is better."""

    prompt: Any
    pictures: list[Any]
    ranks: list[float]


def rank_of(field: Field, prompt: Any) -> float:
    """
    Raises:
        Refusal: if it is null, or no number.
    """
    if (rank := field.number()) is None:
        raise Refusal(f"A picture of the prompt {show_value(prompt)} has no rank (it is null); drop it from the data.")
    return rank


@dataclass(frozen=True)
class AllPairs(FileLayout):
    """All pairs of each ranking; equal ranks are ties. `num_example_per_prompt` counts the pairs of the prompt."""

    def stream(self) -> IterableDataset:
        raise Refusal(
            f"{type(self).__name__} compares records with one another, a stream gives them one by one; set "
            "data.stream to null."
        )

    @property
    def candidates(self) -> tuple[str, str]:
        return "first", "second"

    @property
    def needs(self) -> tuple[str, ...]:
        return "prompt", "rank_first", "rank_second"

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        prob = 0.5 if record["rank_first"] == record["rank_second"] else 1.0
        prompts, candidates = read_prompts(index, record, "prompt", "prompt"), (cell("first"), cell("second"))
        return PairRow(index, **prompts, candidates=candidates, prob=prob, extra=record)

    def paired(self, rankings: Iterable[Ranking]) -> Dataset:
        """One record per pair, the better picture first."""
        pairs = [pair for ranking in rankings for pair in self.pairs(ranking)]
        if not pairs:
            raise Refusal(f"No prompt in {self.path} has two pictures to compare; check the fields of {self}.")
        return Dataset.from_list(pairs)

    def pairs(self, ranking: Ranking) -> Iterator[dict[str, Any]]:
        best_first = sorted(zip(ranking.ranks, ranking.pictures, strict=True), key=lambda ranked: ranked[0])
        count = len(best_first) * (len(best_first) - 1) // 2
        for (rank_first, first), (rank_second, second) in combinations(best_first, 2):
            yield {
                "prompt": ranking.prompt,
                "first": first,
                "second": second,
                "rank_first": rank_first,
                "rank_second": rank_second,
                "num_example_per_prompt": count,
            }


@dataclass(frozen=True)
class Ranked(AllPairs):
    """One record per picture: what it was made for, and its rank among the pictures of its group.

    The defaults are the metadata tables of ImageRewardDB (arXiv:2304.05977); its json files have the same columns.

    Args:
        group: column that pictures which were ranked together share.
        image: column of pictures or of their paths.
        rank: column of ranks, as number or text; lower is better.

    Raises:
        Refusal: if a picture has no group or no rank, or one that is no number.
    """

    prompt: str = "prompt"
    image: str = "image_path"
    rank: str = "rank"
    group: str = "prompt_id"

    def open(self) -> Dataset:
        table = self.pictures(self.group, self.prompt, self.rank)
        groups: dict[tuple[Any, Any], Ranking] = {}
        columns = (table[name] for name in (self.group, self.prompt, self.rank))
        for number, (group, prompt, rank) in enumerate(zip(*columns, strict=True)):
            if is_null(group):
                raise Refusal(f"Row {number} has no {self.group} (it is null); drop that picture from the data.")
            key = group, Field(number, self.prompt, prompt).prompt()
            _, pictures, ranks = groups.setdefault(key, Ranking(prompt, [], []))
            pictures.append(number)
            ranks.append(rank_of(Field(number, self.rank, rank), prompt))
        return self.paired(groups.values())

    def cells(self, table: Dataset) -> dict[str, Dataset]:
        pictures = leave_undecoded(self.pictures(self.image))
        return {name: pictures.rename_column(self.image, name).select(table[name]) for name in self.candidates}

    def pictures(self, *columns: str) -> Dataset:
        """These columns of the table of pictures."""
        table = super().open()
        require_columns(table.column_names, [self.group, self.prompt, self.rank, self.image], self)
        return table.select_columns(list(columns))


@dataclass(frozen=True)
class RankedLists(AllPairs):
    """One record per prompt: paths of its pictures and their ranks. The defaults are test.json of HPDv2."""

    prompt: str = "prompt"
    image: str = "image_path"
    rank: str = "rank"

    def open(self) -> Dataset:
        table = super().open()
        columns = self.prompt, self.image, self.rank
        require_columns(table.column_names, columns, self)
        records = enumerate(zip(*(table[name] for name in columns), strict=True))
        return self.paired(self.ranking(row, *record) for row, record in records)

    def ranking(self, row: int, prompt: Any, pictures: Any, ranks: Any) -> Ranking:
        if not (isinstance(pictures, list) and isinstance(ranks, list) and len(pictures) == len(ranks)):
            raise Refusal(
                f"Row {row} has {self.image} = {show_value(pictures)} and {self.rank} = {show_value(ranks)}; "
                "RankedLists needs "
                "a rank for each picture."
            )
        return Ranking(prompt, pictures, [rank_of(Field(row, self.rank, rank), prompt) for rank in ranks])


@dataclass(frozen=True)
class HPDv2(FileLayout):
    """train.json of HPDv2 (arXiv:2306.09341): `file_path` and `human_preference` are lists of two, 1 marks the winner.

    Equal marks are a tie. The pictures lie in a folder of their own: name it with `images`.

    Raises:
        Refusal: if a record does not hold two pictures with a mark each.
    """

    paths: str = "file_path"

    @property
    def candidates(self) -> tuple[str, ...]:
        return ()

    @property
    def needs(self) -> tuple[str, ...]:
        return "prompt", self.paths, "human_preference"

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        paths, marks = record[self.paths], record["human_preference"]
        wanted = (
            f"Row {index} has {self.paths} = {show_value(paths)} and human_preference = {show_value(marks)}; HPDv2 "
            "needs two "
            "paths and two marks of 0 or 1."
        )
        if not all(isinstance(values, list) and len(values) == 2 for values in (paths, marks)):
            raise Refusal(wanted)
        first, second = (Field(index, "human_preference", mark).reading for mark in marks)
        if not {first, second} <= {0, 1}:
            raise Refusal(wanted)
        candidates = tuple(Held(path, *self.bounds) for path in (paths[::-1] if first < second else paths))
        prompts, prob = read_prompts(index, record, "prompt", "prompt"), 0.5 if first == second else 1.0
        return PairRow(index, **prompts, candidates=candidates, prob=prob, extra=record)
