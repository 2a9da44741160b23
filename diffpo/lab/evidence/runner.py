"""The runs of a grid: prepared, started or taken up again, compared, tabulated."""

import json
import re
import shlex
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from diffpo.cli.command import CommandLine
from diffpo.core.refusal import Refusal
from diffpo.lab.evidence import users as user_evidence
from diffpo.lab.evidence.asked import ask, expect
from diffpo.lab.evidence.contest import Contest
from diffpo.lab.evidence.grid import ASPECTS, AskUsers, Grid, Program, Tune, read_grid, reading
from diffpo.lab.evidence.programs import (
    ENCODE,
    EVALUATE_USERS,
    ONE_THREAD,
    SCORE,
    TAKES_UP,
    module_of,
    placed,
    program,
    programs,
    words_of,
)
from diffpo.lab.evidence.records import COST, TUNING, Runs
from diffpo.lab.evidence.tables import (
    candidates,
    compare_resolved,
    contested,
    format_methods,
    measured,
    row_line,
    swept,
)
from diffpo.storage.digests import read_json
from diffpo.storage.files import require_name

SFT, OVERRIDES = "methods.SFT", "overrides.json"
COUNTING = "diffpo.lab.evidence.cost"


def tabulate(grid: Path, output_dir: Path, jobs: int, readme: Path | None, record: Path | None) -> None:
    plan = read_grid(grid)
    for name in plan.methods:
        require_name(name, "a method")
    require_baseline(plan, grid)
    require_methods(plan, grid)
    for row, differs in compared(plan, tuning(plan))["rows"].items():
        print(row_line(row, differs), flush=True)
    runs = Runs(output_dir, record / grid.stem if record and not plan.users else None)
    chosen, sweep = tuned(plan, plan.tune, runs, jobs) if plan.tune else ({}, {})
    methods = {name: own + chosen.get(name, []) for name, own in plan.methods.items()}
    whole = replace(plan, methods=methods, also=[*plan.also, *plan.measure])
    resolved = compared(whole)
    judged = Contest.of(whole, plan.compare, resolved, runs) if plan.compare else None
    run_all(whole, resolved, runs, jobs, needs_folders=judged is not None and not judged.is_recorded)
    if plan.users:
        found, text = judged_by_users(plan, plan.users, output_dir, jobs)
    else:
        found = measured(plan, runs, chosen) | {"tuning": sweep}
        text = format_methods(found, plan.aspects)
    if plan.compare and judged:
        judged.hold(jobs)
        found["contest"] = contested(plan, plan.compare, runs)
        text += "\n\n" + format_methods(found["contest"], ASPECTS)
    found["resolved"] = resolved
    print(text)
    output_dir.mkdir(parents=True, exist_ok=True)  # all runs may be recorded
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


def require_methods(plan: Grid, grid: Path) -> None:
    """Raise a Refusal if a script is named for what is no method, or one follows what is not tuned."""
    follow = plan.tune.follow if plan.tune else {}
    if odd := sorted((plan.others.keys() | follow) - plan.methods.keys()):
        raise Refusal(f"{grid} names {odd[0]}, which is none of its methods; correct others or tune.follow.")
    if plan.tune and (odd := sorted(set(follow.values()) - plan.tune.values.keys())):
        raise Refusal(f"{grid} lets a method follow {odd[0]}, which is not tuned; correct tune.follow.")


def compared(plan: Grid, tries: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """The resolved config that all rows have in common, and what each of them has else; folders stay placeholders.

    Args:
        tries: further overrides of a row, whose values may still change: they are named by it.

    Raises:
        Refusal: if a row differs in what it does not name.
    """
    rows = {row: [*own, *(tries or {}).get(row, [])] for row, own in plan.methods.items()}
    common = resolve_settings(plan, Program(plan.script, plan.config), [])
    resolved = {row: resolve_settings(plan, plan.program_of(row), own) for row, own in rows.items()}
    return {"common": common, "rows": compare_resolved(common, resolved, rows)}


def resolve_settings(plan: Grid, runs: Program, own: list[str]) -> dict[str, Any]:
    """The resolved config of a run with overrides of its own; folders stay placeholders."""
    also = [f"--config={runs.config}", *plan.reads, *plan.also, "--output_dir={output}"]
    return yaml.safe_load(CommandLine(import_module(module_of(runs.script)).main, [*also, *own]).settings)


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


def run_all(plan: Grid, resolved: Mapping[str, Any], runs: Runs, jobs: int, needs_folders: bool = False) -> None:
    """All runs of a grid that are not recorded yet; pairs are prepared if there are any.

    Args:
        resolved: what `compared` gives of the grid.
        needs_folders: whether those that are recorded have to be there, too.
    """
    asked = {(method, seed): ask(plan, resolved, method, seed) for seed in plan.seeds for method in plan.methods}
    todo = [
        (method, seed)
        for (method, seed), wanted in asked.items()
        if not runs.is_recorded(f"{method}-{seed}", wanted, expect(resolved, method, plan)) or needs_folders
    ]
    if todo:
        prepare(plan, runs.top)

    def do(job: tuple[str, int]) -> None:
        method, seed = job
        run(plan, method, seed, runs)
        runs.leave(f"{method}-{seed}", asked[job], expect(resolved, method, plan))

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(do, todo))


def tuned(plan: Grid, tune: Tune, runs: Runs, jobs: int) -> tuple[dict[str, list[str]], dict[str, dict[str, float]]]:
    """For each method that is tuned, the overrides that did best, and by what that is told of all that were tried."""
    inside, tries = runs.inside(TUNING), candidates(tune.values)
    methods = {run: plan.methods[method] + more for method in tries for run, more in tries[method].items()}
    others = {run: plan.others[method] for method in tries for run in tries[method] if method in plan.others}
    also = [*plan.also, *tune.also]
    trying = replace(plan, seeds=[tune.seed], methods=methods, others=others, also=also, cost=False)
    run_all(trying, compared(trying), inside, jobs)
    sweep = {method: swept(tries[method], inside, tune.seed, tune.by, tune.unseen) for method in tries}
    best = {method: tries[method][max(found, key=found.__getitem__)] for method, found in sweep.items()}
    return best | {method: best[other] for method, other in tune.follow.items()}, sweep


def run(plan: Grid, method: str, seed: int, runs: Runs) -> None:
    """One run, started or taken up again, unless it is finished."""
    folder, made = runs.folder / f"{method}-{seed}", plan.program_of(method)
    pairs = runs.top / ("encoded" if plan.encode is not None else "scored")  # scores.json goes with encoded pairs
    places = {"{scores}": str(pairs), "{output}": str(runs.top)}
    chosen = [placed(override, places) for override in [*plan.reads, *plan.also, *plan.methods[method]]]
    overrides = [*chosen, f"--output_dir={folder}", f"--seed={seed}"]
    require_same_overrides(overrides, folder)
    if not (folder / ("README.md" if plan.users else "report.json")).exists():
        resume = ["--resume=latest"] if folder.exists() and made.script not in TAKES_UP else []
        command = [*program(made.script), f"--config={made.config}", *overrides, *resume]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / OVERRIDES).write_text(json.dumps(overrides))
        programs.run(command, log=folder / "log.txt", environment=ONE_THREAD)
        print(f"{folder.name} is done", flush=True)
    if plan.cost and seed == plan.seeds[0] and not (folder / COST).exists():
        counting = [sys.executable, "-m", COUNTING, str(folder / COST), *words_of(made.script)[1:]]
        programs.run([*counting, f"--config={made.config}", *overrides], environment=ONE_THREAD)


def require_same_overrides(overrides: list[str], folder: Path) -> None:
    """Raise a SystemExit if a run was started by something else than the grid now says, e.g. before it was changed."""
    started = folder / OVERRIDES
    emptied = started.exists() and not started.stat().st_size  # a kill kept it from being written
    if started.exists() and not emptied and read_json(started) != overrides:
        sys.exit(f"error: {folder} was started with other overrides than the grid has now; delete it to run it anew.")


def judged_by_users(plan: Grid, users: AskUsers, output_dir: Path, jobs: int) -> tuple[dict[str, Any], str]:
    """The numbers and the tables of all groups of users."""
    groups, seeds = users.groups, plan.seeds
    with ThreadPoolExecutor(jobs) as pool:
        list(
            pool.map(
                lambda job: drawn_for_group(users, job[0], job[1], output_dir), [(g, s) for g in groups for s in seeds]
            )
        )
    found = {group: user_evidence.pooled([output_dir / f"{group}-{seed}" for seed in seeds]) for group in groups}
    tables = [user_evidence.format_group(f"{group} users", rows) for group, rows in found.items()]
    curves = [user_evidence.curve(rows) for rows in found.values() if rows["between"]]
    return {"seeds": seeds, "grid": plan.said(), "groups": found}, "\n\n".join([*tables, *curves])


def drawn_for_group(users: AskUsers, group: str, seed: int, output_dir: Path) -> None:
    """The pictures of one group of users from the models of one seed; those that are there are not drawn again."""
    folder, places = output_dir / f"{group}-{seed}", {"{output}": str(output_dir), "{seed}": str(seed)}
    models = json.loads(placed(json.dumps(users.groups[group].models), places))
    listed = output_dir / f"{folder.name}.yaml"
    listed.write_text(yaml.safe_dump({"models": [{"name": name, **fields} for name, fields in models.items()]}))
    overrides = [placed(override, places) for override in users.groups[group].overrides]
    configs = [f"--config={users.config}", f"--config={listed}", *overrides, f"--output_dir={folder}"]
    programs.run([*program(EVALUATE_USERS), *configs], environment=ONE_THREAD)
