"""Run a grid of methods and seeds on the tiny world and tabulate what the oracle says, base and SFT beside them.

python scripts/evidence.py --grid configs/evidence/diffusion_dpo.yaml --output_dir runs/evidence --readme README.md
"""

import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from diffpo.cli import launch
from diffpo.evaluation import win_rate
from diffpo.tinyworld import user_evidence

SCRIPT, SCORE, ENCODE = "scripts/train_diffusion_dpo.py", "scripts/score_pairs.py", "scripts/encode_pairs.py"
EVALUATE, CONTEST = "scripts/evaluate.py", "contest"
EVALUATE_USERS = "scripts/evaluate_users.py"
SFT = "methods.sft.SFT"
ALSO = ["--preview=null", "--evaluation.base_pictures={output}/base"]
ASPECTS = {"attributes": "{:.1%}", "style": "{:.3f}", "diversity": "{:.3f}"}


def main(
    grid: Path,
    output_dir: Path,
    jobs: int = 2,
    readme: Path | None = None,
    record: Path | None = Path("assets/evidence"),
    settings: str = "",
) -> None:
    """Run a grid of methods and seeds, and tabulate.

    Args:
        grid: YAML with `config`, `methods` (name: list of overrides), `seeds` and `baseline` (the method that is SFT);
            with `score` (a config of scripts/score_pairs.py) all runs read pairs that are scored once, and `{scores}`
            in an override is the folder of their scores.json; with `encode` (a config of scripts/encode_pairs.py) all
            runs read pairs that are encoded once, from the scored ones if there are any; with `prepare` (a list of
            command lines of our scripts) these run first. There and in overrides, `{output}` is `output_dir`. With
            `compare` (`config`, one of scripts/evaluate.py, and `models`: name: fields of
            diffpo.diffusion.contestants.Model, the first one being the base) these are evaluated after the runs, and a
            second table tells of them; where a field names `{seed}`, there is one model for each seed. With `users`
            (`config`, one of scripts/evaluate_users.py, and `groups`: name: `models` as above, of
            diffpo.diffusion.personal.UserModel, and `overrides`), users judge the runs of each seed instead of the
            oracle, and there is a table for each group. `script` is what runs, train_diffusion_dpo.py where nothing is
            said; `also`, overrides of every run, stands for what that script's runs get otherwise; and `aspects` maps
            numbers of a model in a report to formats of the table's columns.
        output_dir: gets one folder per run; runs that are finished are not repeated, others are taken up again.
        jobs: processes at a time, one thread each.
        readme: the table replaces what stands between two lines `<!-- evidence: <name of the grid> -->` in it.
        record: folder that gets the table's numbers as `<name of the grid>.json`; null writes none.
        settings: the resolved config.
    """
    plan = yaml.safe_load(grid.read_text())
    require_baseline(plan, grid)
    shared = prepared(plan, output_dir)
    todo = [(method, seed) for seed in plan["seeds"] for method in plan["methods"]]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda job: run(plan, *job, output_dir, shared), todo))
    if "users" in plan:
        found, text = judged_by_users(plan, output_dir, jobs)
    else:
        found = measured(plan, output_dir)
        text = table(found, plan.get("aspects", ASPECTS))
    if "compare" in plan:
        contest(plan, output_dir, jobs)
        found["contest"] = contested(plan, output_dir)
        text += "\n\n" + table(found["contest"], ASPECTS)
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


def prepared(plan: dict[str, Any], output_dir: Path) -> list[str]:
    """What makes runs train on pairs that are scored and encoded first, as the grid says, if they are not yet."""
    for line in plan.get("prepare", []):
        subprocess.run([sys.executable, *shlex.split(line.replace("{output}", str(output_dir)))], check=True)
    source = []
    if "score" in plan:
        source = made(SCORE, plan["score"], [], output_dir / "scored", "diffpo.sources.Columns")
    if "encode" in plan:
        reader = "diffpo.diffusion.encoded.EncodedPairs"
        source = made(ENCODE, plan["encode"], source, output_dir / "encoded", reader)
    return source


def made(script: str, config: str, overrides: list[str], folder: Path, reader: str) -> list[str]:
    """What makes a script read the folder that this script fills; if it is full already, the script does nothing."""
    subprocess.run([sys.executable, script, f"--config={config}", *overrides, f"--output_dir={folder}"], check=True)
    return [f"--data.source={reader}", f"--data.source.path={folder}"]


def run(plan: dict[str, Any], method: str, seed: int, output_dir: Path, shared: list[str]) -> None:
    """One run, started or taken up again, unless it is finished.

    Args:
        shared: overrides that come before those of the method.
    """
    folder = output_dir / f"{method}-{seed}"
    if (folder / ("README.md" if "users" in plan else "report.json")).exists():
        return
    pairs = output_dir / ("encoded" if "encode" in plan else "scored")  # scores.json goes with encoded pairs
    places = {"{scores}": str(pairs), "{output}": str(output_dir)}
    chosen = [placed(override, places) for override in [*plan.get("also", ALSO), *plan["methods"][method]]]
    overrides = [*shared, *chosen, f"--output_dir={folder}", f"--seed={seed}"]
    resume = ["--resume=latest"] if folder.exists() else []
    command = [sys.executable, plan.get("script", SCRIPT), f"--config={plan['config']}", *overrides, *resume]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, env=one_thread)
    print(f"{folder.name} is done", flush=True)


def placed(text: str, places: dict[str, str]) -> str:
    for name, folder in places.items():
        text = text.replace(name, folder)
    return text


def measured(plan: dict[str, Any], output_dir: Path) -> dict[str, Any]:
    """All numbers of the table; intervals are bootstrapped over prompts, a prompt's pictures of all seeds together."""
    methods, baseline, seeds = list(plan["methods"]), plan["baseline"], plan["seeds"]
    base, base_rows = scores(output_dir, methods[0], seeds, "base")
    against, _ = scores(output_dir, baseline, seeds, "tuned")
    aspects = plan.get("aspects", ASPECTS)
    rows: dict[str, Any] = {"base": means(base_rows, aspects)}
    for method in methods:
        ours, entries = scores(output_dir, method, seeds, "tuned")
        rows[method] = rates(ours, base, against) | means(entries, aspects)
    rows[baseline]["over_baseline"] = None
    used = json.loads((output_dir / f"{methods[0]}-{seeds[0]}" / "report.json").read_text())["versions"]
    judge = {"metric": "oracle", "prompts": len(base[0]), "pictures": base[0].shape[1]}
    return {"baseline": baseline, "seeds": seeds, **judge, "rows": rows, "grid": plan, "versions": used}


def entrants(plan: dict[str, Any], name: str) -> list[str]:
    """Names under which the model of each seed is evaluated."""
    seeded = "{seed}" in json.dumps(plan["compare"]["models"][name])
    return [f"{name}-{seed}" if seeded else name for seed in plan["seeds"]]


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
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*launched, EVALUATE, *configs], check=True, env=one_thread)


def contested(plan: dict[str, Any], output_dir: Path) -> dict[str, Any]:
    """The numbers of the second table; the base is the first model, the baseline of the first table stays that."""
    report = json.loads((output_dir / CONTEST / "report.json").read_text())

    def utilities(name: str) -> list[np.ndarray]:
        listings = [output_dir / CONTEST / entrant / "prompts.jsonl" for entrant in entrants(plan, name)]
        return [oracle(listing, report["n_prompts"]) for listing in listings]

    base, *_ = names = list(plan["compare"]["models"])
    rows: dict[str, Any] = {}
    for name in names:
        entries = [report["models"][entrant] for entrant in entrants(plan, name)]
        compared = {} if name == base else rates(utilities(name), utilities(base), utilities(plan["baseline"]))
        if name == plan["baseline"]:
            compared["over_baseline"] = None
        rows[name] = {**compared, "guidance": [entry["guidance"] for entry in entries], **means(entries, ASPECTS)}
    return {"baseline": plan["baseline"], "rows": rows, "sweep": report["guidance_sweep"]}


def rates(ours: list[np.ndarray], base: list[np.ndarray], against: list[np.ndarray]) -> dict[str, Any]:
    """Win rates over base and baseline, all seeds together and one by one."""
    return {
        "over_base": asdict(win_rate(np.concatenate(ours, axis=1), np.concatenate(base, axis=1))),
        "over_base_by_seed": [win_rate(a, b).rate for a, b in zip(ours, base, strict=True)],
        "over_baseline": asdict(win_rate(np.concatenate(ours, axis=1), np.concatenate(against, axis=1))),
    }


def judged_by_users(plan: dict[str, Any], output_dir: Path, jobs: int) -> tuple[dict[str, Any], str]:
    """The numbers and the tables of all groups of users."""
    groups, seeds = plan["users"]["groups"], plan["seeds"]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda job: drawn_for_group(plan, *job, output_dir), [(g, s) for g in groups for s in seeds]))
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
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, EVALUATE_USERS, *configs], check=True, env=one_thread)


def oracle(listing: Path, prompts: int) -> np.ndarray:
    """Its utilities (prompts x pictures) of a model's pictures."""
    lines = listing.read_text().splitlines()
    return np.array([json.loads(line)["scores"]["oracle"] for line in lines], dtype=float).reshape(prompts, -1)


def scores(output_dir: Path, method: str, seeds: list[int], model: str) -> tuple[list[np.ndarray], list[dict]]:
    """The oracle's utilities (prompts x pictures) and the report's entry of a model, for each seed."""
    utilities, rows = [], []
    for seed in seeds:
        folder = output_dir / f"{method}-{seed}"
        report = json.loads((folder / "report.json").read_text())
        utilities.append(oracle(folder / "evaluation" / model / "prompts.jsonl", report["n_prompts"]))
        rows.append(report["models"][model])
    return utilities, rows


def means(rows: list[dict], aspects: dict[str, str]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in aspects}


def table(found: dict[str, Any], aspects: dict[str, str]) -> str:
    """One row per method; with the guidance of each seed, if it was chosen.

    Args:
        aspects: formats of further columns.
    """
    chosen = any("guidance" in row for row in found["rows"].values())
    columns = ["model", *["guidance"] * chosen, "win rate over base", "by seed", f"win rate over {found['baseline']}"]
    columns += list(aspects)
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for name, row in found["rows"].items():
        scales = sorted({f"{scale:g}" for scale in row.get("guidance", [])}, key=float)
        by_seed = ", ".join(f"{100 * rate:.1f}" for rate in row.get("over_base_by_seed", []))
        over = [shown(row[key]) if row.get(key) else "" for key in ("over_base", "over_baseline")]
        cells = [name, *[", ".join(scales)] * chosen, over[0], by_seed, over[1]]
        cells += [shape.format(row[name]).replace("%", " %") for name, shape in aspects.items()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(rate: dict[str, float]) -> str:
    return f"{100 * rate['rate']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"


if __name__ == "__main__":
    launch(main)
