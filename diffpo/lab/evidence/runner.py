"""The runs of a grid: prepared, started or taken up again, compared, tabulated."""

import json
import os
import re
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from diffpo.cli.command import CommandLine
from diffpo.lab.evidence import users as user_evidence
from diffpo.lab.evidence.grid import ASPECTS, SCRIPT, Compare, Grid, Tune, Users, read_grid, reading
from diffpo.lab.evidence.tables import (
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

SCORE, ENCODE = "scripts/score_pairs.py", "scripts/encode_pairs.py"
EVALUATE, EVALUATE_USERS = "scripts/evaluate.py", "scripts/evaluate_users.py"
VERBS = {
    SCRIPT: "train",
    "scripts/train_text_dpo.py": "train-text",
    SCORE: "score",
    ENCODE: "encode",
    "scripts/caption_pairs.py": "caption",
    "scripts/embed_users.py": "embed-users",
    EVALUATE: "evaluate",
    EVALUATE_USERS: "evaluate-users",
}
SFT, OVERRIDES = "methods.SFT", "overrides.json"
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}

programs = Children()


def tabulate(grid: Path, output_dir: Path, jobs: int, readme: Path | None, record: Path | None) -> None:
    plan = read_grid(grid)
    for name in plan.methods:
        require_name(name, "a method")
    require_baseline(plan, grid)
    for row, differs in compared(plan, tuning(plan))["rows"].items():
        print(row_line(row, differs), flush=True)
    prepare(plan, output_dir)
    shared = [placed(override, {"{output}": str(output_dir)}) for override in plan.reads]
    chosen, sweep = tuned(plan, plan.tune, output_dir, jobs, shared) if plan.tune else ({}, {})
    whole = replace(plan, methods={name: own + chosen.get(name, []) for name, own in plan.methods.items()})
    run_all(whole, output_dir, jobs, shared)
    if plan.users:
        found, text = judged_by_users(plan, plan.users, output_dir, jobs)
    else:
        found = measured(plan, output_dir, chosen) | {"tuning": sweep}
        text = table(found, plan.aspects)
    if plan.compare:
        contest(plan, plan.compare, output_dir, jobs)
        found["contest"] = contested(plan, plan.compare, output_dir)
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


def require_baseline(plan: Grid, grid: Path) -> None:
    """Raise a SystemExit if the grid does not compare with SFT on winners."""
    if not any(SFT in override for override in plan.methods.get(plan.baseline, [])):
        sys.exit(
            f"error: the baseline of {grid} is {plan.baseline!r}; it has to be one of its methods, with {SFT} of "
            "its track as objective: a method that does not beat SFT on winners has shown nothing."
        )


def compared(plan: Grid, tries: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """The resolved config that all rows have in common, and what each of them has else; folders stay placeholders.

    Args:
        tries: further overrides of a row, whose values may still change: they are named by it.

    Raises:
        Refusal: if a row differs in what it does not name.
    """
    also = [f"--config={plan.config}", *plan.reads, *plan.also, "--output_dir={output}"]
    run = import_module(module_of(plan.script)).main
    rows = {row: [*own, *(tries or {}).get(row, [])] for row, own in plan.methods.items()}
    common, *resolved = (yaml.safe_load(CommandLine(run, [*also, *own]).settings) for own in ([], *rows.values()))
    return {"common": common, "rows": compare_resolved(common, dict(zip(rows, resolved, strict=True)), rows)}


def tuning(plan: Grid) -> dict[str, list[str]]:
    """For each method that is tuned, the first value that is tried."""
    tries = candidates(plan.tune.values) if plan.tune else {}
    return {row: next(iter(found.values())) for row, found in tries.items()}


def prepare(plan: Grid, output_dir: Path) -> None:
    """Score and encode pairs, as the grid says, if they are not yet; with what is to run first."""
    for line in plan.prepare:
        once(line.replace("{output}", str(output_dir)), output_dir / "prepared.txt")
    scored, encoded, source = output_dir / "scored", output_dir / "encoded", []
    if plan.score is not None:
        make(SCORE, plan.score, [], scored)
        source = reading("diffpo.data.Columns", str(scored))
    if plan.encode is not None:
        make(ENCODE, plan.encode, source, encoded)


def once(line: str, done: Path) -> None:
    """Run a command line that is not among those that are done."""
    if not done.exists() or line not in done.read_text().splitlines():
        script, *words = shlex.split(line)
        programs.run([*program(script), *words])
        done.parent.mkdir(parents=True, exist_ok=True)
        with done.open("a") as listed:
            listed.write(f"{line}\n")


def make(script: str, config: str, overrides: list[str], folder: Path) -> None:
    """Fill a folder by a script, which does nothing if it is full already."""
    programs.run([*program(script), f"--config={config}", *overrides, f"--output_dir={folder}"])


def run_all(plan: Grid, output_dir: Path, jobs: int, shared: list[str]) -> None:
    todo = [(method, seed) for seed in plan.seeds for method in plan.methods]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda job: run(plan, job[0], job[1], output_dir, shared), todo))


def tuned(
    plan: Grid, tune: Tune, output_dir: Path, jobs: int, shared: list[str]
) -> tuple[dict[str, list[str]], dict[str, dict[str, float]]]:
    """For each method that is tuned, the overrides that did best, and the mean utility of all that were tried."""
    folder, tries = output_dir / TUNING, candidates(tune.values)
    methods = {run: plan.methods[method] + more for method in tries for run, more in tries[method].items()}
    overrides = {"methods": methods, "also": [*plan.also, *tune.also]}
    here = json.loads(placed(json.dumps(overrides), {"{output}": str(output_dir)}))  # runs lie one folder deeper
    run_all(replace(plan, seeds=[tune.seed], **here), folder, jobs, shared)
    sweep = {method: swept(tries[method], folder, tune.seed) for method in tries}
    return {method: tries[method][max(found, key=found.__getitem__)] for method, found in sweep.items()}, sweep


def run(plan: Grid, method: str, seed: int, output_dir: Path, shared: list[str]) -> None:
    """One run, started or taken up again, unless it is finished.

    Args:
        shared: overrides that come before those of the method.
    """
    folder = output_dir / f"{method}-{seed}"
    pairs = output_dir / ("encoded" if plan.encode is not None else "scored")  # scores.json goes with encoded pairs
    places = {"{scores}": str(pairs), "{output}": str(output_dir)}
    chosen = [placed(override, places) for override in [*plan.also, *plan.methods[method]]]
    overrides = [*shared, *chosen, f"--output_dir={folder}", f"--seed={seed}"]
    require_same(overrides, folder)
    if (folder / ("README.md" if plan.users else "report.json")).exists():
        return
    resume = ["--resume=latest"] if folder.exists() else []
    command = [*program(plan.script), f"--config={plan.config}", *overrides, *resume]
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


def program(script: str) -> list[str]:
    """What starts a script; those that are verbs of `diffpo` need not lie here, as beside an installed package."""
    return [sys.executable, "-m", *words_of(script)] if script in VERBS else [sys.executable, script]


def words_of(script: str) -> list[str]:
    return ["diffpo", VERBS[script]]


def module_of(script: str) -> str:
    """The module whose `main` a script starts; one that is no verb has its own."""
    return f"diffpo.commands.{VERBS[script].replace('-', '_')}" if script in VERBS else Path(script).stem


def placed(text: str, places: dict[str, str]) -> str:
    for name, folder in places.items():
        text = text.replace(name, folder)
    return text


def contest(plan: Grid, compare: Compare, output_dir: Path, jobs: int) -> None:
    """Evaluate all models of all seeds together, each at its own best guidance if the config says so."""
    models = {}
    for name, fields in compare.models.items():
        for entrant, seed in zip(entrants(plan, fields, name), plan.seeds, strict=True):
            places = {"{output}": str(output_dir), "{seed}": str(seed)}
            filled = {key: placed(value, places) if isinstance(value, str) else value for key, value in fields.items()}
            models[entrant] = {"name": entrant, **filled}
    listed = output_dir / f"{CONTEST}.yaml"
    listed.write_text(yaml.safe_dump({"models": list(models.values())}))
    configs = [f"--config={compare.config}", f"--config={listed}", f"--output_dir={output_dir / CONTEST}"]
    launched = [sys.executable, "-m", "accelerate.commands.launch", f"--num_processes={jobs}", "--cpu"]
    programs.run([*launched, "--module", *words_of(EVALUATE), *configs], environment=ONE_THREAD)


def judged_by_users(plan: Grid, users: Users, output_dir: Path, jobs: int) -> tuple[dict[str, Any], str]:
    """The numbers and the tables of all groups of users."""
    groups, seeds = users.groups, plan.seeds
    with ThreadPoolExecutor(jobs) as pool:
        list(
            pool.map(
                lambda job: drawn_for_group(users, job[0], job[1], output_dir), [(g, s) for g in groups for s in seeds]
            )
        )
    found = {group: user_evidence.pooled([output_dir / f"{group}-{seed}" for seed in seeds]) for group in groups}
    tables = [user_evidence.table(f"{group} users", rows) for group, rows in found.items()]
    curves = [user_evidence.curve(rows) for rows in found.values() if rows["between"]]
    return {"seeds": seeds, "grid": plan.said(), "groups": found}, "\n\n".join([*tables, *curves])


def drawn_for_group(users: Users, group: str, seed: int, output_dir: Path) -> None:
    """The pictures of one group of users from the models of one seed; those that are there are not drawn again."""
    folder, places = output_dir / f"{group}-{seed}", {"{output}": str(output_dir), "{seed}": str(seed)}
    models = json.loads(placed(json.dumps(users.groups[group].models), places))
    listed = output_dir / f"{folder.name}.yaml"
    listed.write_text(yaml.safe_dump({"models": [{"name": name, **fields} for name, fields in models.items()]}))
    overrides = [placed(override, places) for override in users.groups[group].overrides]
    configs = [f"--config={users.config}", f"--config={listed}", *overrides, f"--output_dir={folder}"]
    programs.run([*program(EVALUATE_USERS), *configs], environment=ONE_THREAD)
