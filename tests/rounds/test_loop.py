import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from letter_judges import Number

from diffpo.core.refusal import Refusal
from diffpo.rounds import stages
from diffpo.rounds.judges import FromScorer
from diffpo.rounds.loop import RoundPlan, run_rounds
from diffpo.rounds.pairings import AllPairs, BestWorst, Tournament
from diffpo.rounds.plans import FirstOfPair, RoundLearner, Training
from diffpo.rounds.roles import Sampled, Sampler
from diffpo.rounds.tables import RoundPairs, read_table

PROMPTS = {n: f"prompt {n}" for n in range(10)}


class Killed(BaseException):
    """What no handler expects."""


class Numbers(Sampler):
    """Answers are numbers: the model's own plus noise of their draws; `most` answers a call."""

    def __init__(self, calls: Counter, most: int = 1000, version: int = 1):
        self.calls, self.most, self.version = calls, most, version

    @property
    def identity(self):
        return {"sampler": "numbers", "version": self.version}

    def __call__(self, model, prompts, k, draws):
        count(self.calls, "sample")
        noise = [draws.integers(f"answer/{number}", self.most).tolist() for number in range(k)]
        return [[Sampled(str(model + n), {"tokens": len(str(model + n))}) for n in side] for side in noise]


class Judging(Number):
    """As told, and counted."""

    def __init__(self, calls: Counter):
        object.__setattr__(self, "calls", calls)

    def __call__(self, prompts, candidates):
        count(self.calls, "judge")
        return super().__call__(prompts, candidates)


class Summing(RoundLearner):
    """The model is a number; training adds up half of what was chosen over rejected, from its start."""

    base = Path("base")

    def __init__(self, calls: Counter, log: list[Training] | None = None):
        self.calls, self.log = calls, log if log is not None else []

    @property
    def identity(self):
        return {"learner": "summing", "nested": {"rate": 0.5}}

    def load(self, weights):
        return 0 if weights is None else json.loads((weights / "model.json").read_text())

    def train(self, training):
        self.log.append(training)
        count(self.calls, "train")
        pairs, _ = read_table(training.pairs)
        gained = sum(int(pair["chosen"]) - int(pair["rejected"]) for pair in pairs) // (2 * len(pairs))
        training.output_dir.mkdir(exist_ok=True)
        (training.output_dir / "model.json").write_text(json.dumps(self.load(training.start) + gained))
        count(self.calls, "trained")


def count(calls: Counter, what: str) -> None:
    """One more call; the number that is to be the last one kills."""
    calls[what] += 1
    if calls[what] == calls[f"kill {what}"]:
        raise Killed


def run(folder: Path, calls: Counter | None = None, log: list | None = None, **changed) -> Path:
    calls = Counter() if calls is None else calls
    parts = {
        "sampler": Numbers(calls),
        "judge": FromScorer(Judging(calls), temperature=0.0),
        "pairing": BestWorst(),
        "rounds": RoundPlan(rounds=3, k=3),
        "seed": 4,
    } | changed
    return run_rounds(Summing(calls, log), PROMPTS, output_dir=folder, **parts)


def contents(folder: Path) -> dict[str, bytes]:
    """All that a run leaves but for its locks and what remembers times."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


TWO = RoundPlan(rounds=2, k=3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """What two rounds leave that nobody kills; how many prompts are kept at a time does not matter."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder, rounds=TWO)
    return contents(folder)


@pytest.fixture(autouse=True)
def three_at_a_time(monkeypatch):
    """Kept at a time, so that a kill falls between."""
    monkeypatch.setattr(stages, "TOGETHER", 3)


def test_each_round_answers_with_what_the_one_before_has_learned(tmp_path):
    last = run(tmp_path)
    assert last == tmp_path / "round-0002" / "weights"
    models = [json.loads((tmp_path / f"round-000{n}/weights/model.json").read_text()) for n in range(3)]
    assert models == sorted(set(models))
    said = [json.loads((tmp_path / f"round-000{n}/round.json").read_text()) for n in range(3)]
    assert [one["utility"] for one in said] == sorted({one["utility"] for one in said})
    first, pairs = said[0], read_table(tmp_path / "round-0000/pairs.parquet")[0]
    assert first["prompts"] == 10
    assert first["candidates"] == 3
    assert first["yield"] == 1
    assert first["questions"] == first["pairs"] == len(pairs) == 10
    assert all(int(pair["chosen"]) == pair["score_chosen"] > pair["score_rejected"] for pair in pairs)
    assert not [file for file in contents(tmp_path) if ".sampling" in file or ".judging" in file]


@pytest.mark.parametrize(
    "kill",
    [("sample", 1), ("sample", 7), ("judge", 2), ("train", 2), ("trained", 2)],
)
def test_a_run_that_was_killed_goes_on_to_the_same_bits(tmp_path, whole, kill):
    what, number = kill
    calls = Counter({f"kill {what}": number})
    with pytest.raises(Killed):
        run(tmp_path, calls, rounds=TWO)
    run(tmp_path, calls, rounds=TWO)
    assert contents(tmp_path) == whole
    assert calls[what] == {"sample": 8, "judge": 8, "train": 2, "trained": 2}[what] + 1


@pytest.mark.parametrize("stage", ["write_candidates", "write_wins", "write_pair_table", "describe_round"])
def test_a_kill_while_a_table_is_written_goes_on_to_the_same_bits(tmp_path, whole, stage, monkeypatch):
    with monkeypatch.context() as patched:
        place = "diffpo.rounds.loop" if stage == "describe_round" else "diffpo.rounds.stages"
        patched.setattr(f"{place}.{stage}", raise_killed)
        with pytest.raises(Killed):
            run(tmp_path, rounds=TWO)
    run(tmp_path, rounds=TWO)
    assert contents(tmp_path) == whole


def raise_killed(*_, **__):
    raise Killed


def test_finished_rounds_are_not_made_again_and_more_may_follow(tmp_path, whole):
    calls = Counter()
    run(tmp_path, calls, rounds=RoundPlan(rounds=1, k=3))
    run(tmp_path, calls, rounds=RoundPlan(rounds=1, k=3))
    assert calls["sample"] == 4
    run(tmp_path, calls, rounds=TWO)
    assert calls["sample"] == 8
    assert contents(tmp_path) == whole


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 5}, "seed was 4 and is 5"),
        ({"pairing": AllPairs()}, "pairing was 'BestWorst"),
        ({"rounds": RoundPlan(rounds=3, k=4)}, "k was 3 and is 4"),
        ({"rounds": RoundPlan(rounds=3, k=3, start=FirstOfPair())}, "start was 'FromLast"),
        ({"sampler": Numbers(Counter(), version=2)}, "version was 1 and is 2"),
        ({"judge": FromScorer(Judging(Counter()), temperature=1.0)}, "temperature was 0.0 and is 1.0"),
    ],
)
def test_rounds_of_something_else_are_refused_by_what_differs(tmp_path, whole, changed, named):
    first = tmp_path / "round-0000"
    first.mkdir()
    (first / "identity.json").write_bytes(whole["round-0000/identity.json"])
    with pytest.raises(Refusal, match=f"round-0000 holds results of something else: .*{named}"):
        run(tmp_path, **changed)


def test_every_second_round_of_an_extragradient_trains_from_where_the_first_did(tmp_path):
    log: list[Training] = []
    run(tmp_path, log=log, rounds=RoundPlan(rounds=4, k=3, start=FirstOfPair()))
    second, fourth = tmp_path / "round-0001/weights", tmp_path / "round-0003/weights"
    assert [training.start for training in log] == [None, None, second, second]
    assert [training.seed for training in log] == [4, 5, 6, 7]
    made = [read_table(tmp_path / f"round-000{n}/candidates.parquet")[1]["model"] for n in range(4)]
    assert made == ["base", "round-0000/weights", "round-0001/weights", "round-0002/weights"]
    assert fourth.exists()


def test_earlier_rounds_are_kept_as_asked_and_prompts_come_in_turn(tmp_path):
    run(tmp_path, rounds=RoundPlan(rounds=3, k=3, keep=2, prompts=4))
    asked = [{pair["prompt_id"] for pair in read_table(tmp_path / f"round-000{n}/pairs.parquet")[0]} for n in range(3)]
    assert asked == [{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 0, 1}]
    trained = [len(read_table(tmp_path / f"round-000{n}/trained.parquet")[0]) for n in range(3)]
    assert trained == [4, 8, 8]


def test_equal_answers_are_dropped_and_counted_and_stop_the_run_if_nearly_all_are(tmp_path):
    run(tmp_path / "some", sampler=Numbers(Counter(), most=2), rounds=RoundPlan(rounds=1, k=2))
    said = json.loads((tmp_path / "some/round-0000/round.json").read_text())
    assert said["equal"] > 0
    assert said["equal"] + said["tied"] + said["pairs"] == 10
    assert said["questions"] == said["pairs"]
    assert said["duplicates"] == said["equal"] / 20
    with pytest.raises(Refusal, match="Of 10 prompts of .*, 10 have no pair: the candidates of 10 are all equal"):
        run(tmp_path / "none", sampler=Numbers(Counter(), most=1))


def test_what_cannot_be_paired_is_refused_before_anything_is_sampled(tmp_path):
    calls = Counter()
    with pytest.raises(Refusal, match="there is 1; sample more"):
        run(tmp_path, calls, rounds=RoundPlan(rounds=1, k=1))
    with pytest.raises(Refusal, match="no prompt"):
        run_rounds(Summing(calls), {}, Numbers(calls), FromScorer(Number()), BestWorst(), RoundPlan(), tmp_path)
    assert not calls


def test_pairs_of_a_round_are_read_as_it_wrote_them(tmp_path):
    run(tmp_path, pairing=Tournament(), judge=FromScorer(Number(), temperature=100.0), rounds=RoundPlan(rounds=1, k=3))
    source = RoundPairs(str(tmp_path / "round-0000/pairs.parquet"))
    table = source.open()
    row = source.row(0, table[0], lambda column: table[0][column])
    assert row.scores == (float(table[0]["chosen"]), float(table[0]["rejected"]))
    assert 0.5 < row.prob < 1
    with pytest.raises(Refusal, match="stands for the pairs of a round"):
        RoundPairs().open()


def test_candidates_that_others_wrote_and_changed_are_not_taken_for_those_that_were_judged(tmp_path):
    def write(texts: str) -> None:
        rows = [{"prompt_id": 0, "prompt": "p", "candidate": k, "text": text} for k, text in enumerate(texts)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "candidates.parquet", compression="none")

    judge, all_pairs = FromScorer(Number()), AllPairs()
    write("12")
    stages.judge_candidates(tmp_path, judge, all_pairs)
    stages.pair_candidates(tmp_path, all_pairs)
    assert [pair["chosen"] for pair in read_table(tmp_path / "pairs.parquet")[0]] == ["2"]
    size = (tmp_path / "candidates.parquet").stat().st_size
    write("21")
    assert (tmp_path / "candidates.parquet").stat().st_size == size
    with pytest.raises(Refusal, match="candidates was"):
        stages.judge_candidates(tmp_path, judge, all_pairs)
