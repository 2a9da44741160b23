"""Rounds beside an offline run in one table, on the tiny language world."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from pyarrow import parquet

from diffpo.cli.command import parse
from diffpo.commands import evidence, train_rounds, train_text
from diffpo.core.refusal import Refusal
from diffpo.lab.evidence import runner
from diffpo.lab.evidence.grid import Grid, Program, Tune
from diffpo.lab.evidence.programs import module_of, programs
from diffpo.lab.evidence.records import Runs
from diffpo.lab.evidence.tables import compare_resolved

COMMANDS = {"train-text": train_text.main, "rounds": train_rounds.main}
OFFLINE = {"script": "scripts/train_text_dpo.py", "config": "configs/text/quickstart.yaml"}
GRID = {
    "script": "scripts/train_rounds.py",
    "config": "configs/rounds/tiny_iterative_dpo.yaml",
    "others": {"sft": OFFLINE},
    "also": [
        "--evaluation=diffpo.lab.CyclicRewriting",
        "--evaluation.drawing=null",
        "--evaluation.prompts.path=assets/tiny-rewrites/prompts/evaluation.jsonl",
        "--evaluation.prompts.count=4",
        "--evaluation.writing.rewrites=2",
        "--fit.batch_size=4",
        "--fit.per_device_batch_size=4",
        "--fit.warmup=0",
        "--fit.steps=1",
    ],
    "by_round": ["exploitability"],
    "aspects": {"attributes": "{:.1%}"},
    "seeds": [0],
    "baseline": "sft",
}


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """Command lines that a grid starts, run in this process."""
    commands = []

    def run(command, **_):
        verb, *words = command[3:]
        commands.append([verb, *words])
        chosen, settings = parse(COMMANDS[verb], words)
        COMMANDS[verb](**chosen, settings=settings)

    monkeypatch.setattr(programs, "run", run)
    return commands


def tabulate(root: Path, grid: dict, out: str) -> str:
    (root / "grid.yaml").write_text(yaml.safe_dump(grid, sort_keys=False))
    evidence.main(root / "grid.yaml", root / out, jobs=1, record=root / "records")
    return (root / out / "table.md").read_text()


def test_rounds_and_an_offline_run_share_a_table_that_goes_on_from_their_records(tmp_path, started, capsys):
    table = parquet.read_table("assets/tiny-rewrites/train.parquet").slice(0, 24)
    parquet.write_table(table, few := tmp_path / "few.parquet")
    offline = ["--objective=diffpo.text.methods.SFT", "--data.source=diffpo.data.Columns", f"--data.source.path={few}"]
    grid = GRID | {"methods": {"sft": offline, "rounds": ["--rounds.rounds=2", "--rounds.prompts=6"]}}
    told = tabulate(tmp_path, grid, "out")
    assert [words[0] for words in started] == ["train-text", "rounds"]
    head, _, base, sft, rounds = told.splitlines()
    overs = "win rate over base | by seed | win rate over sft"
    assert head == f"| model | {overs} | exploitability: base, after each round | attributes |"
    assert base.count("|") == sft.count("|") == rounds.count("|") == head.count("|")
    sft_record, record = (
        json.loads((tmp_path / "records/grid" / f"{row}-0.json").read_text()) for row in ("sft", "rounds")
    )
    before, [between], after = (record["numbers"][key] for key in ("models", "rounds", "models"))
    by_round = [before["base"], between, after["tuned"]]
    assert ", ".join(f"{one['exploitability']:.3f}" for one in by_round) in rounds
    assert all(sum(one[at] for at in ("center", "top", "left", "elsewhere")) == pytest.approx(1) for one in by_round)
    assert "rounds" not in sft_record["numbers"]
    assert len(record["numbers"]["utilities"]["tuned"]) < 4  # those that name a position are left out
    assert [record["config"]["rounds"]["rounds"], record["config"]["output_dir"]] == [2, "{output}/rounds-0"]
    said = capsys.readouterr().out
    assert "rounds: rounds.prompts 6, rounds.rounds 2\n" in said
    assert "sft: data.source diffpo.data.Columns" in said
    assert "no judge, " in said
    started.clear()
    assert tabulate(tmp_path, grid, "elsewhere") == told
    assert not started
    with pytest.raises(Refusal, match="rounds-0.json is of a run with another overrides"):
        tabulate(tmp_path, grid | {"methods": grid["methods"] | {"rounds": ["--rounds.rounds=3"]}}, "out")


def test_a_grid_without_win_rates_has_no_such_columns(tmp_path, monkeypatch):
    entry = {"attributes": 0.5}
    numbers = {"models": {"base": entry, "tuned": entry}, "utilities": {"base": [[0.0]], "tuned": [[1.0]]}}
    monkeypatch.setattr(Runs, "numbers", lambda self, run: numbers | {"versions": {}})
    plan = Grid("a.yaml", {"sft": []}, [0], "sft", win_rates=False, aspects={"attributes": "{:.1%}"})
    found = runner.measured(plan, Runs(tmp_path))
    head, _, _, sft = runner.format_methods(found, plan.aspects).splitlines()
    assert (head, sft) == ("| model | attributes |", "| sft | 50.0 % |")
    with pytest.raises(Refusal, match="sft did not measure exploitability after each round"):
        runner.measured(replace(plan, by_round=["exploitability"]), Runs(tmp_path))


def test_a_value_that_another_row_does_not_name_is_refused_of_another_script_too():
    rounds = {"fit": {"steps": 20, "warmup": 3}, "judge": {"class_path": "J", "init_args": {"seed": 0}}}
    offline = {"fit": {"steps": 60, "warmup": 10}, "reference": None}
    with pytest.raises(Refusal, match="in 1 values .* fit.warmup: 10, in common 3"):
        compare_resolved(rounds, {"dpo": offline}, {"dpo": ["--fit.steps=60"]})
    found = compare_resolved(rounds, {"dpo": offline}, {"dpo": ["--fit.steps=60", "--fit.warmup=10"]})
    assert found["dpo"]["has"] == {"fit.steps": 60, "fit.warmup": 10, "reference": None}


def test_methods_take_over_what_another_was_tuned_to(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(runner, "compared", lambda plan: {"rows": {}})
    monkeypatch.setattr(runner, "run_all", lambda plan, *_: tried.append(plan))
    monkeypatch.setattr(runner, "swept", lambda tries, *_: {name: float("0.3" in name) for name in tries})
    tune = Tune(7, {"dpo": {"loss.beta": [0.1, 0.3, 1.0]}}, follow={"momentum": "dpo"})
    methods = {"sft": [], "dpo": [], "momentum": ["--a=1"]}
    plan = Grid("a.yaml", methods, [0], "sft", others={"dpo": Program("s.py", "b.yaml")}, tune=tune)
    chosen, _ = runner.tuned(plan, tune, Runs(tmp_path), 1)
    assert chosen == {"dpo": ["--loss.beta=0.3"], "momentum": ["--loss.beta=0.3"]}
    assert {tried[0].program_of(name).config for name in tried[0].methods} == {"b.yaml"}
    assert plan.program_of("sft") == Program(plan.script, "a.yaml")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"others": {"dpo": OFFLINE}}, "names dpo, which is none of its methods"),
        ({"tune": {"seed": 1, "values": {}, "follow": {"sft": "dpo"}}}, "follow dpo, which is not tuned"),
    ],
)
def test_a_row_that_is_none_is_refused_before_anything_runs(tmp_path, changed, told):
    with pytest.raises(Refusal, match=told):
        tabulate(tmp_path, GRID | {"methods": {"sft": ["--objective=diffpo.text.methods.SFT"]}} | changed, "out")


def test_scripts_name_their_modules():
    assert module_of("scripts/train_rounds.py") == "diffpo.commands.train_rounds"
    assert module_of("scripts/train_text_dpo.py") == "diffpo.commands.train_text"
    assert module_of("elsewhere/run.py") == "run"
