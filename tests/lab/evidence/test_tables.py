import json
import shutil
import signal
from dataclasses import asdict

import numpy as np
import pytest
import yaml
from signals import PROGRAM, send_once

from diffpo.commands import evidence
from diffpo.core.refusal import Refusal
from diffpo.lab.evidence import runner
from diffpo.lab.evidence.grid import Compare, Grid
from diffpo.lab.evidence.records import Runs
from diffpo.lab.evidence.tables import (
    candidates,
    compare_resolved,
    contested,
    entrants,
    format_methods,
    measured,
    rates,
    row_line,
    shown,
    swept,
    win_rate_over_seeds,
)
from diffpo.processes.stopping import Stopped
from diffpo.storage.ledger import write_named

ASPECTS = {"attributes": "{:.1%}", "length": "{:.1f}"}
ENTRY = {"attributes": 0.5, "style": 0.25, "diversity": 0.125, "length": 10.5, "guidance": 2.5}


def listed(folder, scores: list[float]) -> None:
    folder.mkdir(parents=True)
    lines = [json.dumps({"prompt": "a", "scores": {"oracle": score}}) for score in scores]
    (folder / "prompts.jsonl").write_text("\n".join(lines))


def test_rates_are_of_all_seeds_together_and_of_each():
    """Two prompts, one picture, two seeds: 2 wins and 2 ties over the base, 1 loss and 3 ties over the baseline."""
    ours, base, against = (
        [np.array(seed)[:, None] for seed in seeds]
        for seeds in (([1.0, 2.0], [0.0, 1.0]), ([0.0, 1.0], [0.0, 1.0]), ([1.0, 2.0], [0.0, 2.0]))
    )
    found = rates(ours, base, against)
    assert found["over_base"]["rate"] == 0.75
    assert found["over_base_by_seed"] == [1.0, 0.5]
    assert found["over_baseline"]["rate"] == 0.375


def test_intervals_are_over_prompts_and_seeds():
    """One seed wins everywhere and the other nowhere: over prompts alone nothing would vary."""
    won, lost, base = np.ones((50, 1)), -np.ones((50, 1)), np.zeros((50, 1))
    assert asdict(win_rate_over_seeds([won, lost], [base, base])) == {"rate": 0.5, "low": 0.0, "high": 1.0}
    mixed = np.where(np.arange(50)[:, None] < 25, 1.0, -1.0)
    alone, twice = (win_rate_over_seeds([mixed] * n, [base] * n) for n in (1, 2))
    assert alone.rate == twice.rate == 0.5
    assert 0.3 < alone.low == twice.low < 0.42  # a copy of a seed tells nothing new: 0.5 - 1.96 sqrt(0.25 / 50)
    unread = np.where(np.arange(50)[:, None] < 25, np.nan, 1.0)
    assert asdict(win_rate_over_seeds([unread], [base])) == {"rate": 1.0, "low": 1.0, "high": 1.0}


def test_a_grid_names_the_columns_that_are_tabulated(tmp_path):
    listed(tmp_path / "sft-0" / "evaluation" / "base", [0.0, 1.0])
    listed(tmp_path / "sft-0" / "evaluation" / "tuned", [1.0, 1.0])
    report = {"n_prompts": 2, "models": {"base": ENTRY, "tuned": ENTRY | {"length": 8.0}}, "versions": {}}
    (tmp_path / "sft-0" / "report.json").write_text(json.dumps(report))
    found = measured(Grid("a.yaml", {"sft": []}, [0], "sft", aspects=ASPECTS), Runs(tmp_path))
    head, _, base, sft = format_methods(found, ASPECTS).splitlines()
    assert head.endswith("| win rate over sft | attributes | length |")
    assert base.endswith("|  | 50.0 % | 10.5 |")
    assert sft == "| sft | 75.0 % [50.0, 100.0] | 75.0 |  | 50.0 % | 8.0 |"


def test_differences_that_nobody_sees_are_ties_in_a_column_of_their_own(tmp_path):
    listed(tmp_path / "sft-0" / "evaluation" / "base", [0.0, 1.0])
    listed(tmp_path / "sft-0" / "evaluation" / "tuned", [1.0, 1.05])
    report = {"n_prompts": 2, "models": {"base": ENTRY, "tuned": ENTRY}, "versions": {}}
    (tmp_path / "sft-0" / "report.json").write_text(json.dumps(report))
    found = measured(Grid("a.yaml", {"sft": []}, [0], "sft", unseen=0.1), Runs(tmp_path))
    head, _, _, sft = format_methods(found, {}).splitlines()
    assert head.endswith("| by seed | win rate over base, differences up to 0.1 as ties | win rate over sft |")
    assert sft == "| sft | 100.0 % [100.0, 100.0] | 100.0 | 75.0 % [50.0, 100.0] |  |"


def test_a_number_that_no_run_has_measured_is_no_column_and_one_of_some_rows_is_blank_elsewhere(tmp_path):
    """Single pictures have no diversity."""
    listed(tmp_path / "sft-0" / "evaluation" / "base", [0.0, 1.0])
    listed(tmp_path / "sft-0" / "evaluation" / "tuned", [1.0, 1.0])
    alone = ENTRY | {"diversity": None}
    report = {"n_prompts": 2, "models": {"base": alone, "tuned": alone}, "versions": {}}
    (tmp_path / "sft-0" / "report.json").write_text(json.dumps(report))
    found = measured(Grid("a.yaml", {"sft": []}, [0], "sft"), Runs(tmp_path))
    head, _, base, _ = format_methods(found, {"style": "{:.3f}", "diversity": "{:.3f}"}).splitlines()
    assert head.endswith("| win rate over sft | style |")
    assert base.endswith("|  | 0.250 |")
    found["rows"]["sft"]["diversity"] = 0.125
    *_, base, sft = format_methods(found, {"style": "{:.3f}", "diversity": "{:.3f}"}).splitlines()
    assert base.endswith("| 0.250 |  |")
    assert sft.endswith("| 0.250 | 0.125 |")


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"n_prompts": 2}', '{"scores": {}}', "Not found", "\x00"])
@pytest.mark.parametrize("name", ["report.json", "evaluation/base/prompts.jsonl"])
def test_damaged_results_of_a_run_are_named(tmp_path, name, content):
    listed(tmp_path / "sft-0" / "evaluation" / "base", [0.0, 1.0])
    listed(tmp_path / "sft-0" / "evaluation" / "tuned", [1.0, 1.0])
    report = {"n_prompts": 2, "models": {"base": ENTRY, "tuned": ENTRY}, "versions": {}}
    (tmp_path / "sft-0" / "report.json").write_text(json.dumps(report))
    (tmp_path / "sft-0" / name).write_text(content)
    with pytest.raises(Refusal, match=rf"^{tmp_path}/sft-0/{name} is damaged \(.*\); copy it again"):
        measured(Grid("a.yaml", {"sft": []}, [0], "sft"), Runs(tmp_path))


def test_scores_of_a_run_that_are_not_those_that_were_written_are_refused(tmp_path):
    for model, utilities in (("base", [0.0, 1.0]), ("tuned", [1.0, 1.0])):
        listed(tmp_path / "sft-0" / "evaluation" / model, utilities)
    report = {"n_prompts": 2, "models": {"base": ENTRY, "tuned": ENTRY}, "versions": {}}
    (tmp_path / "sft-0" / "report.json").write_text(json.dumps(report))
    listing = tmp_path / "sft-0" / "evaluation" / "tuned" / "prompts.jsonl"
    write_named(listing, listing.read_bytes())
    assert measured(Grid("a.yaml", {"sft": []}, [0], "sft"), Runs(tmp_path))
    listing.write_bytes((tmp_path / "sft-0" / "evaluation" / "base" / "prompts.jsonl").read_bytes())
    with pytest.raises(Refusal, match=rf"^{listing} is damaged \(it is not what was written\); copy it again"):
        measured(Grid("a.yaml", {"sft": []}, [0], "sft"), Runs(tmp_path))


def test_the_table_states_what_was_tuned_and_compares_with_a_rival(tmp_path):
    """Two prompts; dpo wins one and ties one against sft, whose rival it is."""
    for name, tuned in (("sft", [1.0, 1.0]), ("dpo", [2.0, 1.0])):
        folder = tmp_path / f"{name}-0"
        listed(folder / "evaluation" / "base", [0.0, 1.0])
        listed(folder / "evaluation" / "tuned", tuned)
        report = {"n_prompts": 2, "models": {"base": ENTRY, "tuned": ENTRY}, "versions": {}}
        (folder / "report.json").write_text(json.dumps(report))
    aspects = {"utility": "{:.2f}"}
    plan = Grid("a.yaml", {"sft": [], "dpo": []}, [0], "sft", rival="dpo", aspects=aspects)
    found = measured(plan, Runs(tmp_path), {"dpo": ["--objective.loss.beta=0.5"]})
    head, _, base, sft, dpo = format_methods(found, aspects).splitlines()
    overs = "win rate over base | by seed | win rate over sft | win rate over dpo"
    assert head == f"| model | tuned | {overs} | utility |"
    assert base == "| base |  |  |  |  |  | 0.50 |"
    assert sft == "| sft |  | 75.0 % [50.0, 100.0] | 75.0 |  | 25.0 % [0.0, 50.0] | 1.00 |"
    assert dpo == "| dpo | beta 0.5 | 75.0 % [50.0, 100.0] | 75.0 | 75.0 % [50.0, 100.0] |  | 1.50 |"


def test_an_argument_of_a_method_is_tuned():
    assert candidates({"dpo": {"loss.beta": [0.1, 1]}}) == {
        "dpo": {"dpo-0.1": ["--loss.beta=0.1"], "dpo-1": ["--loss.beta=1"]}
    }
    with pytest.raises(SystemExit, match="dpo is tuned by 3 arguments"):
        candidates({"dpo": {"loss.beta": [0.1], "optimizer.lr": [0.1], "fit.steps": [3]}})


def test_each_value_of_a_second_argument_is_tried_with_each_of_the_first():
    tries = candidates({"dpo": {"loss.beta": [0.1, 1], "eta": [0, 2]}})["dpo"]
    assert list(tries) == ["dpo-0.1-0", "dpo-0.1-2", "dpo-1-0", "dpo-1-2"]
    assert tries["dpo-1-0"] == ["--loss.beta=1", "--eta=0"]


PLAN = Grid("a.yaml", {}, [0, 1], "sft")
MODELS = {"base": {"base": "b"}, "sft": {"unet": "{output}/sft-{seed}"}}


def test_the_value_that_wins_most_often_need_not_have_the_highest_mean(tmp_path):
    for name, tuned in (("often", [0.1, 0.1, -1.0]), ("seldom", [0.5, 0.0, -0.2]), ("base", [0.0, 0.0, 0.0])):
        folder = tmp_path / f"{name}-7"
        listed(folder / "evaluation" / "base", [0.0, 0.0, 0.0])
        listed(folder / "evaluation" / "tuned", tuned)
        report = {"n_prompts": 3, "models": {"base": ENTRY, "tuned": ENTRY}, "versions": {}}
        (folder / "report.json").write_text(json.dumps(report))
    tries = {"often": [], "seldom": [], "base": []}
    assert swept(tries, Runs(tmp_path), 7, "win_rate") == {"often": 2 / 3, "seldom": 0.5, "base": 0.5}
    assert swept(tries, Runs(tmp_path), 7, "win_rate", unseen=0.1) == {"often": 1 / 3, "seldom": 0.5, "base": 0.5}
    by_mean = swept(tries, Runs(tmp_path), 7)
    assert max(by_mean, key=by_mean.__getitem__) == "seldom"


def test_a_model_that_names_the_seed_is_another_for_each():
    assert entrants(PLAN, MODELS["base"], "base") == ["base", "base"]
    assert entrants(PLAN, MODELS["sft"], "sft") == ["sft-0", "sft-1"]


def test_a_contest_tells_the_guidance_that_each_seed_chose(tmp_path):
    names = ["base", "sft-0", "sft-1"]
    for name, score in zip(names, (0.0, 1.0, 0.0), strict=True):
        listed(tmp_path / "contest" / name, [score])
    models = {name: ENTRY | {"guidance": 2.5 + i} for i, name in enumerate(names)}
    (tmp_path / "contest" / "report.json").write_text(
        json.dumps({"n_prompts": 1, "models": models, "versions": {}, "guidance_sweep": {}})
    )
    found = contested(PLAN, Compare("c.yaml", MODELS), Runs(tmp_path))
    assert found["rows"]["sft"]["guidance"] == [3.5, 4.5]
    assert found["rows"]["sft"]["over_base"]["rate"] == 0.75
    assert "| sft | 3.5, 4.5 | 75.0 %" in format_methods(found, {})


def test_a_rate_is_shown_in_percent_with_its_interval():
    assert shown({"rate": 0.5, "low": 0.25, "high": 0.756}) == "50.0 % [25.0, 75.6]"


COMMON = {
    "objective": {
        "class_path": "DP",
        "init_args": {"loss": {"class_path": "S", "init_args": {"beta": 500}}, "on": None},
    },
    "guard": {"mu": 0.2, "nu": 1},
    "fit": {"steps": 120},
    "rows": [{"class_path": "DropTies"}],
}


def loss(name: str, **args) -> dict:
    return {
        "objective": {"class_path": "DP", "init_args": {"loss": {"class_path": name, "init_args": args}, "on": None}}
    }


@pytest.mark.parametrize(
    ("changed", "overrides"),
    [
        ({}, []),
        (loss("S", beta=7), ["--objective.loss.beta=7"]),
        (loss("S", beta=7), ["--objective.init_args.loss.init_args.beta=7"]),
        (loss("W", gamma=1), ["--objective.loss=W"]),
        ({"objective": {"class_path": "SFT", "init_args": {}}}, ["--objective=SFT"]),
        ({"guard": None}, ["--guard=null"]),
        ({"guard": {"mu": 1, "nu": 2}}, ["--guard={mu: 1, nu: 2}"]),
        ({"rows": [1, 2]}, ["--rows+=X", "--rows.share=0.2"]),
    ],
)
def test_a_row_may_differ_in_what_it_names(changed, overrides):
    found = compare_resolved(COMMON, {"row": COMMON | changed}, {"row": overrides})
    assert bool(found["row"]["has"] or found["row"]["lacks"]) == bool(overrides)


@pytest.mark.parametrize(
    ("changed", "overrides", "named"),
    [
        (loss("S", beta=5000), [], "1 values .* objective.loss.beta: 5000, in common 500; .* --objective.loss.beta="),
        (loss("S", beta=5000), ["--objective=DCPO"], "objective.loss.beta: 5000"),
        (loss("W", beta=500), ["--objective=SmPO"], "objective.loss: W, in common S"),
        ({"guard": None}, ["--objective=DCPO"], "guard.mu: absent, in common 0.2"),
        ({"guard": {"mu": 0.1, "nu": 2}}, ["--guard.mu=0.1"], "guard.nu: 2, in common 1"),
        ({"fit": {"steps": 300}}, ["--objective=DCPO"], "fit.steps: 300"),
        ({"rows": []}, [], "rows: "),
    ],
)
def test_a_row_that_differs_in_what_it_does_not_name_is_refused(changed, overrides, named):
    with pytest.raises(Refusal, match=f"Row odd of the grid.*{named}"):
        compare_resolved(COMMON, {"even": COMMON, "odd": COMMON | changed}, {"even": [], "odd": overrides})


def test_common_part_and_differences_make_the_row_again():
    rows = {"sft": COMMON | {"objective": {"class_path": "SFT", "init_args": {}}}, "same": COMMON}
    found = compare_resolved(COMMON, rows, {"sft": ["--objective=SFT"], "same": []})
    gone = ["objective.loss", "objective.loss.beta", "objective.on"]
    assert found == {"sft": {"has": {"objective": "SFT"}, "lacks": gone}, "same": {"has": {}, "lacks": []}}
    assert row_line("sft", found["sft"]) == f"sft: objective SFT, {', '.join(f'no {key}' for key in gone)}"
    assert row_line("same", found["same"]) == "same: nothing else than what all have in common"


SFT = ["--objective=diffpo.text.methods.SFT"]


def text_grid(root, **methods) -> dict:
    plan = {"script": "scripts/train_text_dpo.py", "config": "configs/text/quickstart.yaml", "also": ["--fit.steps=1"]}
    plan |= {"methods": {"sft": SFT} | methods, "seeds": [0], "baseline": "sft"}
    (root / "grid.yaml").write_text(yaml.safe_dump(plan | {"prepare": ["scripts/build_assets.py rewrites"]}))
    return plan


def test_a_grid_whose_rows_are_no_comparison_is_refused_before_anything_runs(tmp_path, monkeypatch, capsys):
    """ASFT has a beta of its own, 1, which the row does not name."""
    monkeypatch.setattr(runner.programs, "run", lambda *_, **__: pytest.fail("something ran"))
    text_grid(tmp_path, asft=["--objective.loss=diffpo.losses.ASFT"])
    with pytest.raises(Refusal, match="Row asft .* objective.loss.beta: 1.0, in common 0.5"):
        evidence.main(tmp_path / "grid.yaml", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_record_keeps_the_resolved_config_of_each_run(tmp_path, monkeypatch, capsys):
    """Runs are faked; what was prepared, started and resolved has the same folders."""
    ran = []
    base = (
        listed(tmp_path / "seen" / "evaluation" / "base", [0.0]),
        listed(tmp_path / "seen" / "evaluation" / "tuned", [1]),
    )
    assert base == (None, None)
    report = {"n_prompts": 1, "models": {"base": ENTRY, "tuned": ENTRY}, "versions": {}}
    (tmp_path / "seen" / "report.json").write_text(json.dumps(report))

    def fake(command, **_):
        ran.append(command)
        for folder in [word.removeprefix("--output_dir=") for word in command if word.startswith("--output_dir=")]:
            shutil.copytree(tmp_path / "seen", folder, dirs_exist_ok=True)

    monkeypatch.setattr(runner.programs, "run", fake)
    text_grid(tmp_path, dpo=["--objective.loss.beta=0.25"])
    evidence.main(tmp_path / "grid.yaml", tmp_path / "out", jobs=1, record=tmp_path)
    resolved = json.loads((tmp_path / "grid.json").read_text())["resolved"]
    assert resolved["rows"]["dpo"] == {"has": {"objective.loss.beta": 0.25}, "lacks": []}
    assert resolved["common"]["fit"]["steps"] == 1
    assert resolved["common"]["output_dir"] == "{output}"
    assert "dpo: objective.loss.beta 0.25\n" in capsys.readouterr().out
    assert [command[1:4] for command in ran] == [
        ["scripts/build_assets.py", "rewrites"],
        *[["-m", "diffpo", "train-text"]] * 2,
    ]


def test_a_signal_to_a_grid_reaches_its_runs_which_end_in_order(tmp_path, monkeypatch):
    """Two of three runs are at work; the third is never begun."""
    (tmp_path / "run.py").write_text(PROGRAM)
    plan = {"script": str(tmp_path / "run.py"), "config": "none.yaml", "methods": {"sft": SFT}, "baseline": "sft"}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(plan | {"seeds": [0, 1, 2]}))
    monkeypatch.setattr(runner, "compared", lambda plan, tries=None: {"common": {}, "rows": {}})
    out = tmp_path / "out"
    sender = send_once(signal.SIGTERM, out / "sft-0" / "begun", out / "sft-1" / "begun")
    with pytest.raises(Stopped) as stopped:
        evidence.main(tmp_path / "grid.yaml", out)
    sender.join()
    assert stopped.value.number == signal.SIGTERM
    assert [(out / f"sft-{seed}" / "ended").exists() for seed in range(3)] == [True, True, False]
    assert not (out / "sft-2" / "begun").exists()


def test_overrides_that_a_kill_kept_from_being_written_are_written_anew(tmp_path):
    (tmp_path / runner.OVERRIDES).touch()
    runner.require_same_overrides(["--a=1"], tmp_path)
    (tmp_path / runner.OVERRIDES).write_text('["--a=2"]')
    with pytest.raises(SystemExit, match="was started with other overrides"):
        runner.require_same_overrides(["--a=1"], tmp_path)
