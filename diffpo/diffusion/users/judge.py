"""Few-shot judging for persons (PPD, arXiv:2501.06655): each pair in both orders, every verdict kept as it comes."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from diffpo.annotators.captioners.roles import Interrupted
from diffpo.annotators.embedders.embedder import Shown
from diffpo.annotators.user_judges.roles import (
    Choice,
    PairVerdict,
    SupportExample,
    UserJudge,
    UserQuestion,
    Verdict,
    summarize_verdicts,
)
from diffpo.core.draws import Draws
from diffpo.core.refusal import Refusal
from diffpo.data.rows import PairRow, RowMap
from diffpo.data.source import Source
from diffpo.diffusion.annotate.job import Job
from diffpo.diffusion.annotate.read_ahead import Question, read_ahead
from diffpo.diffusion.annotate.score import read_candidate
from diffpo.diffusion.evaluation.model import stamp_files
from diffpo.diffusion.users.panel import DrawnForUsers, Panel, Query, Seated, drawn_in
from diffpo.storage.files import name_failed_writes
from diffpo.storage.job_folder import JobFolder
from diffpo.storage.ledger import REMEDY
from diffpo.storage.shared_work import shared_out

REPORT = "report.json"
VERDICTS = "verdicts.jsonl"
UNFINISHED = ".judging"
BATCHES = 64


@dataclass(frozen=True, eq=False)
class Hearing:
    """Queries put to a judge. Question 2n shows our picture of query n first, question 2n + 1 theirs.

    Attributes:
        seed: of the places of the supporting pictures, and of the judge's draws.
        batch_size: questions whose pictures are in memory at a time.
    """

    judge: UserJudge
    queries: list[Query]
    seed: int
    batch_size: int

    def all(self, folder: Path, identity: Mapping[str, Any], what: str) -> list[PairVerdict | None]:
        """What is said of each query; None if one of its pictures cannot be read."""
        numbers, at_a_time = range(2 * len(self.queries)), BATCHES * self.batch_size
        lines = shared_out(numbers, self.found, at_a_time, folder, identity, what, "question")
        said = [None if lines[number] is None else Verdict(**lines[number]) for number in numbers]
        both = zip(said[::2], said[1::2], strict=True)
        return [
            None if straight is None or turned is None else PairVerdict(straight, turned) for straight, turned in both
        ]

    def found(self, numbers: Sequence[int]) -> Iterator[dict[int, Any]]:
        for unreadable, questions in self.asked(numbers):
            yield dict.fromkeys(unreadable)
            if not questions:
                continue
            draws, asked = Draws(self.seed, (0,) * len(questions), tuple(questions)), list(questions)
            try:
                verdicts = self.judge(list(questions.values()), draws.integers("judge", 2**31).tolist())
            except Interrupted as error:
                yield {asked[i]: verdict._asdict() for i, verdict in error.said.items()}
                raise
            yield {number: verdict._asdict() for number, verdict in zip(asked, verdicts, strict=True)}

    def asked(self, numbers: Sequence[int]) -> Iterator[tuple[list[int], dict[int, UserQuestion]]]:
        """Batch by batch the numbers of questions that cannot be shown, and the other questions."""
        per_question = 2 * len(self.queries[0].support) + 2
        shown = [Question(n, "", picture) for n in numbers for picture in list_readers(self.queries[n // 2], n % 2)]
        for batch in read_ahead(shown, per_question * self.batch_size, per_question):
            found: dict[int, list[Image.Image | None]] = defaultdict(list)
            for question, picture in batch:
                found[question.row].append(picture)
            readable = {n: seen for n, some in found.items() if len(seen := [one for one in some if one]) == len(some)}
            questions = {n: self.question(self.queries[n // 2], *seen) for n, seen in readable.items()}
            yield [n for n in found if n not in questions], questions

    def question(self, query: Query, first: Image.Image, second: Image.Image, *support: Image.Image) -> UserQuestion:
        """
        Args:
            support: liked and disliked picture of each supporting pair.
        """
        sides = zip(query.support, support[::2], support[1::2], strict=True)
        examples = [
            SupportExample(Shown(str(row.prompts[0]), liked, disliked), self.preferred(query.user, row))
            for row, liked, disliked in sides
        ]
        return UserQuestion(query.user, tuple(examples), query.caption, first, second)

    def preferred(self, user: str, row: PairRow) -> Choice:
        """Where the preferred picture of a supporting pair stands, whatever the pair supports."""
        return 1 if Draws(self.seed, (0,), (row.id,)).uniform(f"support/{user}").item() < 0.5 else 2

    def record(self, query: Query, heard: PairVerdict | None) -> dict[str, Any]:
        """All about a query: where which supporting picture stood, and what was said."""
        support = [{"pair": row.id, "preferred": self.preferred(query.user, row)} for row in query.support]
        about = {"user": query.user, "pair": query.pair, "caption": query.caption, "support": support}
        if heard is None:
            return about | {"outcome": None}
        said = {name: verdict._asdict() for name, verdict in heard._asdict().items()}
        return about | {"outcome": heard.outcome, **said}


def list_readers(query: Query, turned: int) -> list[Any]:
    """What reads the pictures of a question: first, second, then those of the support."""
    sides = (query.theirs, query.ours) if turned else (query.ours, query.theirs)
    return [*sides, *(partial(read_candidate, side) for row in query.support for side in row.candidates)]


def judge_users(
    judge: UserJudge,
    source: Source,
    output_dir: Path | str,
    panel: Panel,
    models: tuple[Path, Path] | None = None,
    rows: Sequence[RowMap] = (),
    batch_size: int = 8,
) -> dict[str, Any]:
    """Test a judge on the labels of persons, then have it compare what two models drew for them.

    All processes share the work. After a kill, the same call goes on where it stopped; once finished, it does nothing.

    Args:
        source: the pairs of the persons: the judge's support, and labeled pairs to test it on.
        models: folders with a folder for each user (`diffpo.diffusion.users.panel.drawn_in`), ours first. None only
            tests the judge, for all users.
        rows: what drops pairs before they are grouped by user.
        batch_size: questions whose pictures are read at a time; a judge may divide them further.

    Returns:
        What is in `report.json`: what it depends on; `known`, what
        `diffpo.annotators.user_judges.roles.summarize_verdicts` makes of labeled pairs, where a win is to say what the
        person said (so the win rate is the judge's accuracy, ties counting half); and `compared`, the same of the
        first model against the second. Either is null if nothing was asked. Beside it is `verdicts.jsonl` with a line
        for each pair.

    Raises:
        Refusal: if the source, the judge or the folders cannot be used, a user has too few pairs, there is nothing
            to judge or no picture can be read, or the output folder holds something else.
        Refusal: if the folder cannot be written, or an endpoint stops answering.
    """
    folder = JobFolder(Path(output_dir), REPORT, UNFINISHED, ".jsonl")
    job = Job.open(folder, source, rows, panel.seed, batch_size)
    drawn = models and (drawn_in(models[0]), drawn_in(models[1]))
    seated = panel.seat(job.pairs, silent=job.is_silent)
    queries = ask_judge(seated, drawn)
    files = {str(one.folder): stamp_files(one.files) for one in drawn or ()}
    identity = {"judge": judge.identity, **job.data, "panel": str(panel), "models": files, "digest": seated.digest}
    if (finished := folder.finished(identity)) is not None:
        return finished
    judge.check()
    job.begin(identity)
    about, records = dict(identity), []
    for name, some in queries.items():
        hearing = Hearing(judge, some, panel.seed, batch_size)
        said = hearing.all(folder.unfinished / name, identity, name) if some else []
        of_user: dict[str, list[PairVerdict | None]] = defaultdict(list)
        for query, heard in zip(some, said, strict=True):
            of_user[query.user].append(heard)
        about[name] = summarize_verdicts(of_user) if some else None
        records += [{"of": name, **hearing.record(*one)} for one in zip(some, said, strict=True)]
    judge.rest()
    if job.state.is_main_process:
        with name_failed_writes(f"{output_dir}/{VERDICTS}", REMEDY):
            (folder.unfinished / VERDICTS).write_text("".join(json.dumps(record) + "\n" for record in records))
    job.finish(about, [VERDICTS])
    return about


def ask_judge(seated: Seated, drawn: tuple[DrawnForUsers, DrawnForUsers] | None) -> dict[str, list[Query]]:
    """What the judge is tested on, and what it compares.

    Raises:
        Refusal: if it is nothing.
    """
    if drawn:
        drawn[0].require_like(drawn[1])
    users = seated.panel.first(list(drawn[0].of_user)) if drawn else seated.testable
    queries = {"known": seated.known(users), "compared": seated.drawn(users, *drawn) if drawn else []}
    if not any(queries.values()):
        raise Refusal("There is nothing to judge: labeled is 0 and no pictures are named; set labeled or models.")
    return queries
