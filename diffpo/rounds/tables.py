"""The three tables of a round, each useful alone: candidates, what a judge said of them, and pairs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.data.mixture import Mixed
from diffpo.data.rows import PairRow
from diffpo.data.source import Refer, Source
from diffpo.data.typed import Field
from diffpo.rounds.contents import REMEDY, name_content
from diffpo.rounds.questions import Recorded
from diffpo.rounds.roles import Pair
from diffpo.storage.digests import FILES, naming_damage, require_written, written_in
from diffpo.storage.ledger import write_named

CANDIDATES, WINS, PAIRS, TRAINED = "candidates.parquet", "wins.parquet", "pairs.parquet", "trained.parquet"
ABOUT = b"diffpo"  # what a table says of itself

Entries = Mapping[int, Any]


@dataclass(frozen=True)
class RoundPairs(Columns):
    """Pairs that a round has made: P(chosen wins), scores and weights are read as the round wrote them.

    In `diffpo rounds`, without a path, it stands for the pairs of the round: alone, or mixed with offline pairs by
    `diffpo.data.Mixed`.

    Args:
        path: a `pairs.parquet`, or a folder of such files.
    """

    path: str = ""

    def open(self) -> Dataset:
        if not self.path:
            raise Refusal(
                "RoundPairs without a path stands for the pairs of a round, which diffpo rounds makes; name a "
                f"{PAIRS} in data.source.path."
            )
        return super().open()

    def row(self, index: int, record: Mapping[str, Any], cell: Refer) -> PairRow:
        """The pair, and its calibration sample if it has one; without scores they are 0, without a weight it is 1."""
        row = super().row(index, record, cell)
        chosen, rejected, weight = (
            Field(row.id, name, record.get(name)).number() for name in ("score_chosen", "score_rejected", "weight")
        )
        row = replace(row, scores=(chosen or 0.0, rejected or 0.0), weight=1.0 if weight is None else weight)
        if (third := record.get("calibration")) is None:
            return row
        prompts, candidates = (*row.prompts, row.prompts[0]), (*row.candidates, third)
        return replace(row, prompts=prompts, candidates=candidates, scores=(*row.scores, 0.0))


def name_pairs(source: Source, file: Path, images: Path | None = None) -> Source:
    """The source in which the pairs of a round have their place.

    Args:
        images: folder that the paths of their pictures are relative to, if it is not that of the file.
    """
    if isinstance(source, Mixed):
        filled = [name_pairs(layout, file, images) for layout in source.sources]
        return replace(source, sources=filled)
    if not isinstance(source, RoundPairs) or source.path:
        return source
    return replace(source, path=str(file), images=source.images if images is None else str(images))


@dataclass(frozen=True, eq=False)
class Answers:
    """Candidates of some prompts.

    Attributes:
        ids: of the prompts.
        contents: k lists of b.
        about: the same of what is recorded of each.
    """

    ids: tuple[int, ...]
    prompts: list[Any]
    contents: list[list[Any]]
    about: list[list[dict[str, Any]]]

    def of(self, rows: Sequence[int]) -> "Answers":
        """Those of some of the prompts, in this order."""
        return Answers(
            tuple(self.ids[row] for row in rows),
            [self.prompts[row] for row in rows],
            [[side[row] for row in rows] for side in self.contents],
            [[side[row] for row in rows] for side in self.about],
        )

    @property
    def told_apart(self) -> list[int]:
        """Rows whose candidates are not all equal."""
        return [row for row, some in enumerate(self.keyed) if len(set(some)) > 1]

    @property
    def keyed(self) -> list[list[str]]:
        """Of the candidates of each prompt."""
        return [list(map(name_content, some)) for some in zip(*self.contents, strict=True)]


def write_records(file: Path, records: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Write records as parquet, there as a whole or not at all, and its digest beside it.

    Args:
        about: what the table says of itself.
    """
    names = list(dict.fromkeys(name for record in records for name in record))
    table = pa.table({name: [record.get(name) for record in records] for name in names})
    held = BytesIO()
    pq.write_table(table.replace_schema_metadata({ABOUT: json.dumps(about, sort_keys=True).encode()}), held)
    write_named(file, held.getvalue())


def read_table(file: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Records, and what the table says of itself; a table that others wrote says nothing.

    Raises:
        Refusal: if it is not there, or not what was written.
    """
    if not file.exists():
        raise Refusal(f"There is no {file}; make it first (diffpo sample, judge, pair), or name another folder.")
    named = written_in(file.parent) if (file.parent / FILES).exists() else None
    if file.name in (named or {}):  # a table that others laid there has no digest
        require_written(file.parent, [file.name], REMEDY)
    with naming_damage(file):
        table = pq.read_table(file)
        said = (table.schema.metadata or {}).get(ABOUT)
        return table.to_pylist(), json.loads(said) if said else {}


def write_candidates(file: Path, prompts: Mapping[int, Any], entries: Entries, about: Mapping[str, Any]) -> None:
    """Args:
    entries: of each prompt, the content of its candidates and what is recorded of each.
    """
    records = [
        {"prompt_id": number, "prompt": prompts[number], "candidate": k}
        | {"text" if isinstance(content, str | list) else "picture": content}
        | {"seed": about.get("seed"), "model": about.get("model")}
        | said
        for number in prompts
        for k, (content, said) in enumerate(entries[number])
    ]
    write_records(file, records, about)


def read_candidates(folder: Path) -> tuple[Answers, dict[str, Any]]:
    """Raises:
    Refusal: if prompts have other numbers of candidates than others.
    """
    records, about = read_table(folder / CANDIDATES)
    by_prompt: dict[int, list[dict[str, Any]]] = {}
    for record in records:
        by_prompt.setdefault(record["prompt_id"], []).append(record)
    sizes = {len(some) for some in by_prompt.values()}
    if len(sizes) != 1:
        raise Refusal(
            f"Prompts of {folder / CANDIDATES} have {', '.join(map(str, sorted(sizes))) or 'no'} candidates; give each"
            " as many as the others."
        )
    columns = [sorted(some, key=lambda record: record["candidate"]) for some in by_prompt.values()]
    sides = list(map(list, zip(*columns, strict=True)))
    contents = [[record.get("text", record.get("picture")) for record in side] for side in sides]
    return Answers(tuple(by_prompt), [some[0]["prompt"] for some in columns], contents, sides), about


def write_wins(file: Path, answers: Answers, entries: Entries, about: Mapping[str, Any]) -> None:
    """A line for each question; where first and second are one candidate, its score stands.

    Args:
        entries: of each prompt, `said` and `scores`.
    """
    records = list[dict[str, Any]]()
    for number in answers.ids:
        entry = entries.get(number, {"said": [], "scores": None})
        scored = enumerate(entry["scores"] or [])
        records += [
            {"prompt_id": number, "first": k, "second": k, "prob": 0.5, "score": float(score)} for k, score in scored
        ]
        records += [
            {"prompt_id": number, "first": i, "second": j, "prob": prob, "score": None} for i, j, prob in entry["said"]
        ]
    write_records(file, records, about)


def read_wins(folder: Path, answers: Answers) -> tuple[Recorded, dict[str, Any]]:
    """What the judge said, as a judge."""
    records, about = read_table(folder / WINS)
    places = {number: row for row, number in enumerate(answers.ids)}
    said, scored = dict[tuple[str, str, str], float](), dict[tuple[str, str], float]()
    for record in records:
        row = places[record["prompt_id"]]
        first, second = (name_content(answers.contents[record[side]][row]) for side in ("first", "second"))
        prompt = name_content(answers.prompts[row])
        if record["first"] == record["second"]:
            scored[prompt, first] = record["score"]
        else:
            said[prompt, first, second] = record["prob"]
    return Recorded(said, scored, about.get("judge", {})), about


def write_pair_table(file: Path, answers: Answers, pairs: Sequence[Pair], about: Mapping[str, Any]) -> None:
    """As `RoundPairs`, and `diffpo.data.Columns`, read them."""
    write_records(
        file,
        [
            {
                "prompt_id": answers.ids[pair.row],
                "prompt": answers.prompts[pair.row],
                "chosen": answers.contents[pair.chosen][pair.row],
                "rejected": answers.contents[pair.rejected][pair.row],
                "prob": pair.prob,
                "score_chosen": pair.score[0],
                "score_rejected": pair.score[1],
                "weight": pair.weight,
                "candidate_chosen": pair.chosen,
                "candidate_rejected": pair.rejected,
            }
            | ({} if pair.calibration is None else {"calibration": answers.contents[pair.calibration][pair.row]})
            for pair in pairs
        ],
        about,
    )
