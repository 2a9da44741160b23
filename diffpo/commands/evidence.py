"""Run a grid of methods and seeds on the tiny world and tabulate what the oracle says, base and SFT beside them.

python scripts/evidence.py --grid configs/evidence/peers.yaml --output_dir runs/evidence --readme docs/results.md
"""

import json
import os
import re
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from diffpo.cli.command import CommandLine
from diffpo.lab.evidence import users as user_evidence
from diffpo.lab.evidence.tables import (
    ASPECTS,
    CONTEST,
    TUNING,
    candidates,
    compare_resolved,
    contested,
    entrants,
    measured,
    row_line,
    swept,
    table,
)
from diffpo.processes.children import Children
from diffpo.storage.digests import read_json
from diffpo.storage.files import require_name

SCRIPT, SCORE, ENCODE = "scripts/train_diffusion_dpo.py", "scripts/score_pairs.py", "scripts/encode_pairs.py"
EVALUATE, EVALUATE_USERS = "scripts/evaluate.py", "scripts/evaluate_users.py"
SFT, OVERRIDES = "methods.SFT", "overrides.json"
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
ALSO = ["--preview=null", "--evaluation.base_pictures={output}/base"]

programs = Children()


def main(
    grid: Path,
    output_dir: Path,
    jobs: int = 2,
    readme: Path | None = None,
    record: Path | None = Path("assets/evidence"),
    settings: str = "",
) -> None:
    """Run a grid of methods and seeds, and tabulate.

    Before any run, the resolved config of each method is compared with that of a run without overrides of its own: a
    method may differ only in what it names, and what makes it is printed. The record keeps both.

    Args:
        grid: YAML with `config`, `methods` (name: list of overrides), `seeds` and `baseline` (the method that is SFT);
            with `rival` (another method) all are compared with that, too. With `score` (a config of
            scripts/score_pairs.py) all runs read pairs that are scored once, and `{scores}` in an override is the
            folder of their scores.json; with `encode` (a config of scripts/encode_pairs.py) all runs read pairs that
            are encoded once, from the scored ones if there are any; with `prepare` (a list of command lines of our
            scripts) these run first. There and in overrides, `{output}` is `output_dir`. With `tune` (`seed`, `also`:
            further overrides of these runs, by which development prompts judge them, and `values`: method: argument:
            list of values) each value of that argument is tried with that seed first, and all seeds of the method
            take the one with the best utility. With `compare` (`config`, one of scripts/evaluate.py, and `models`:
            name: fields of diffpo.diffusion.ComparedModel, the first one being the base) these are evaluated
            after the runs, and a second table tells of them; where a field names `{seed}`, there is one model for
            each seed. With `users` (`config`, one of scripts/evaluate_users.py, and `groups`: name: `models` as
            above, of diffpo.diffusion.UserModel, and `overrides`), users judge the runs of each seed instead
            of the oracle, and there is a table for each group. `script` is what runs, train_diffusion_dpo.py where
            nothing is said; `also`, overrides of every run, stands for what that script's runs get otherwise; and
            `aspects` maps numbers of a model in a report to formats of the table's columns, utility being the
            oracle's mean.
        output_dir: gets one folder per run; runs that are finished are not repeated, others are taken up again.
        jobs: processes at a time, one thread each.
        readme: the table replaces what stands between two lines `<!-- evidence: <name of the grid> -->` in it.
        record: folder that gets the table's numbers as `<name of the grid>.json`; null writes none.
        settings: the resolved config.
    """
    with programs.heard():
        tabulate(grid, output_dir, jobs, readme, record)


def tabulate(grid: Path, output_dir: Path, jobs: int, readme: Path | None, record: Path | None) -> None:
    plan = yaml.safe_load(grid.read_text())
    for name in plan["methods"]:
        require_name(name, "a method")
    require_baseline(plan, grid)
    for row, differs in compared(plan, tuning(plan))["rows"].items():
        print(row_line(row, differs), flush=True)
    prepare(plan, output_dir)
    shared = [placed(override, {"{output}": str(output_dir)}) for override in reads(plan)]
    chosen, sweep = tuned(plan, output_dir, jobs, shared) if "tune" in plan else ({}, {})
    whole = plan | {"methods": {name: plan["methods"][name] + chosen.get(name, []) for name in plan["methods"]}}
    run_all(whole, output_dir, jobs, shared)
    if "users" in plan:
        found, text = judged_by_users(plan, output_dir, jobs)
    else:
        found = measured(plan, output_dir, chosen) | {"tuning": sweep}
        text = table(found, plan.get("aspects", ASPECTS))
    if "compare" in plan:
        contest(plan, output_dir, jobs)
        found["contest"] = contested(plan, output_dir)
        text += "\n\n" + table(found["contest"], ASPECTS)
    found["resolved"] = compared(whole)
    print(text)
    (output_dir / "table.md").write_text(text + "\n")
    if record:
        record.mkdir(parents=True, exist_ok=True)
        (record / f"{grid.stem}.json").write_text(json.dumps(found, indent=2) + "\n")
    if readme:
        mark = f"<!-- evidence: {grid.stem} -->"
        before, _, after = re.split(re.escape(mark), readme.read_text())
        readme.write_text(f"{before}{mark}\n{text}\n{mark}{after}")


def require_baseline(plan: dict[str, Any], grid: Path) -> None:
    """Raise a SystemExit if the grid does not compare with SFT on winners."""
    if not any(SFT in override for override in plan["methods"].get(plan["baseline"], [])):
        sys.exit(
            f"error: the baseline of {grid} is {plan['baseline']!r}; it has to be one of its methods, with {SFT} of "
            "its track as objective: a method that does not beat SFT on winners has shown nothing."
        )


def compared(plan: dict[str, Any], tries: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """The resolved config that all rows have in common, and what each of them has else; folders stay placeholders.

    Args:
        tries: further overrides of a row, whose values may still change: they are named by it.

    Raises:
        Refusal: if a row differs in what it does not name.
    """
    also = [f"--config={plan['config']}", *reads(plan), *plan.get("also", ALSO), "--output_dir={output}"]
    run = import_module(Path(plan.get("script", SCRIPT)).stem).main
    rows = {row: [*own, *(tries or {}).get(row, [])] for row, own in plan["methods"].items()}
    common, *resolved = (yaml.safe_load(CommandLine(run, [*also, *own]).settings) for own in ([], *rows.values()))
    return {"common": common, "rows": compare_resolved(common, dict(zip(rows, resolved, strict=True)), rows)}


def tuning(plan: dict[str, Any]) -> dict[str, list[str]]:
    """For each method that is tuned, the first value that is tried."""
    return {
        row: next(iter(found.values())) for row, found in candidates(plan.get("tune", {}).get("values", {})).items()
    }


def reads(plan: dict[str, Any]) -> list[str]:
    """What makes runs read the pairs that are scored or encoded first."""
    if "encode" in plan:
        return reading("diffpo.diffusion.EncodedPairs", "{output}/encoded")
    return reading("diffpo.data.Columns", "{output}/scored") if "score" in plan else []


def reading(reader: str, folder: str) -> list[str]:
    return [f"--data.source={reader}", f"--data.source.path={folder}"]


def prepare(plan: dict[str, Any], output_dir: Path) -> None:
    """Score and encode pairs, as the grid says, if they are not yet; with what is to run first."""
    for line in plan.get("prepare", []):
        once(line.replace("{output}", str(output_dir)), output_dir / "prepared.txt")
    scored, encoded, source = output_dir / "scored", output_dir / "encoded", []
    if "score" in plan:
        make(SCORE, plan["score"], [], scored)
        source = reading("diffpo.data.Columns", str(scored))
    if "encode" in plan:
        make(ENCODE, plan["encode"], source, encoded)


def once(line: str, done: Path) -> None:
    """Run a command line that is not among those that are done."""
    if not done.exists() or line not in done.read_text().splitlines():
        programs.run([sys.executable, *shlex.split(line)])
        done.parent.mkdir(parents=True, exist_ok=True)
        with done.open("a") as listed:
            listed.write(f"{line}\n")


def make(script: str, config: str, overrides: list[str], folder: Path) -> None:
    """Fill a folder by a script, which does nothing if it is full already."""
    programs.run([sys.executable, script, f"--config={config}", *overrides, f"--output_dir={folder}"])


def run_all(plan: dict[str, Any], output_dir: Path, jobs: int, shared: list[str]) -> None:
    todo = [(method, seed) for seed in plan["seeds"] for method in plan["methods"]]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda job: run(plan, job[0], job[1], output_dir, shared), todo))


def tuned(
    plan: dict[str, Any], output_dir: Path, jobs: int, shared: list[str]
) -> tuple[dict[str, list[str]], dict[str, dict[str, float]]]:
    """For each method that is tuned, the overrides that did best, and the mean utility of all that were tried."""
    tune, folder = plan["tune"], output_dir / TUNING
    tries = candidates(tune["values"])
    methods = {run: plan["methods"][method] + more for method in tries for run, more in tries[method].items()}
    trial = {"methods": methods, "seeds": [tune["seed"]], "also": [*plan.get("also", ALSO), *tune["also"]]}
    here = json.loads(placed(json.dumps(trial), {"{output}": str(output_dir)}))  # runs lie one folder deeper
    run_all(plan | here, folder, jobs, shared)
    sweep = {method: swept(tries[method], folder, tune["seed"]) for method in tries}
    return {method: tries[method][max(found, key=found.__getitem__)] for method, found in sweep.items()}, sweep


def run(plan: dict[str, Any], method: str, seed: int, output_dir: Path, shared: list[str]) -> None:
    """One run, started or taken up again, unless it is finished.

    Args:
        shared: overrides that come before those of the method.
    """
    folder = output_dir / f"{method}-{seed}"
    pairs = output_dir / ("encoded" if "encode" in plan else "scored")  # scores.json goes with encoded pairs
    places = {"{scores}": str(pairs), "{output}": str(output_dir)}
    chosen = [placed(override, places) for override in [*plan.get("also", ALSO), *plan["methods"][method]]]
    overrides = [*shared, *chosen, f"--output_dir={folder}", f"--seed={seed}"]
    require_same(overrides, folder)
    if (folder / ("README.md" if "users" in plan else "report.json")).exists():
        return
    resume = ["--resume=latest"] if folder.exists() else []
    command = [sys.executable, plan.get("script", SCRIPT), f"--config={plan['config']}", *overrides, *resume]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OVERRIDES).write_text(json.dumps(overrides))
    programs.run(command, log=folder / "log.txt", environment=ONE_THREAD)
    print(f"{folder.name} is done", flush=True)


def require_same(overrides: list[str], folder: Path) -> None:
    """Raise a SystemExit if a run was started by something else than the grid now says, e.g. before it was changed."""
    started = folder / OVERRIDES
    emptied = started.exists() and not started.stat().st_size  # a kill kept it from being written
    if started.exists() and not emptied and read_json(started) != overrides:
        sys.exit(f"error: {folder} was started with other overrides than the grid has now; delete it to run it anew.")


def placed(text: str, places: dict[str, str]) -> str:
    for name, folder in places.items():
        text = text.replace(name, folder)
    return text


def contest(plan: dict[str, Any], output_dir: Path, jobs: int) -> None:
    """Evaluate all models of all seeds together, each at its own best guidance if the config says so."""
    models = {}
    for name, fields in plan["compare"]["models"].items():
        for entrant, seed in zip(entrants(plan, name), plan["seeds"], strict=True):
            places = {"{output}": str(output_dir), "{seed}": str(seed)}
            filled = {key: placed(value, places) if isinstance(value, str) else value for key, value in fields.items()}
            models[entrant] = {"name": entrant, **filled}
    listed = output_dir / f"{CONTEST}.yaml"
    listed.write_text(yaml.safe_dump({"models": list(models.values())}))
    configs = [f"--config={plan['compare']['config']}", f"--config={listed}", f"--output_dir={output_dir / CONTEST}"]
    launched = [sys.executable, "-m", "accelerate.commands.launch", f"--num_processes={jobs}", "--cpu"]
    programs.run([*launched, EVALUATE, *configs], environment=ONE_THREAD)


def judged_by_users(plan: dict[str, Any], output_dir: Path, jobs: int) -> tuple[dict[str, Any], str]:
    """The numbers and the tables of all groups of users."""
    groups, seeds = plan["users"]["groups"], plan["seeds"]
    with ThreadPoolExecutor(jobs) as pool:
        list(
            pool.map(
                lambda job: drawn_for_group(plan, job[0], job[1], output_dir), [(g, s) for g in groups for s in seeds]
            )
        )
    found = {group: user_evidence.pooled([output_dir / f"{group}-{seed}" for seed in seeds]) for group in groups}
    tables = [user_evidence.table(f"{group} users", rows) for group, rows in found.items()]
    curves = [user_evidence.curve(rows) for rows in found.values() if rows["between"]]
    return {"seeds": seeds, "grid": plan, "groups": found}, "\n\n".join([*tables, *curves])


def drawn_for_group(plan: dict[str, Any], group: str, seed: int, output_dir: Path) -> None:
    """The pictures of one group of users from the models of one seed; those that are there are not drawn again."""
    folder, places = output_dir / f"{group}-{seed}", {"{output}": str(output_dir), "{seed}": str(seed)}
    models = json.loads(placed(json.dumps(plan["users"]["groups"][group]["models"]), places))
    listed = output_dir / f"{folder.name}.yaml"
    listed.write_text(yaml.safe_dump({"models": [{"name": name, **fields} for name, fields in models.items()]}))
    overrides = [placed(override, places) for override in plan["users"]["groups"][group]["overrides"]]
    configs = [f"--config={plan['users']['config']}", f"--config={listed}", *overrides, f"--output_dir={folder}"]
    programs.run([sys.executable, EVALUATE_USERS, *configs], environment=ONE_THREAD)
