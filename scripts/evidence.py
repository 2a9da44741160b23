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

SCRIPT, SCORE, ENCODE = "scripts/train_diffusion_dpo.py", "scripts/score_pairs.py", "scripts/encode_pairs.py"
SFT = "diffpo.diffusion.methods.sft.SFT"
ASPECTS = ("attributes", "style", "diversity")


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
            command lines of our scripts) these run first. There and in overrides, `{output}` is `output_dir`.
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
    found = measured(plan, output_dir)
    text = table(found)
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
            f"error: the baseline of {grid} is {plan['baseline']!r}; it has to be one of its methods, with "
            f"--objective={SFT}: a method that does not beat SFT on winners has shown nothing."
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
    if (folder / "report.json").exists():
        return
    pairs = output_dir / ("encoded" if "encode" in plan else "scored")  # scores.json goes with encoded pairs
    places = {"{scores}": str(pairs), "{output}": str(output_dir)}
    chosen = [placed(override, places) for override in plan["methods"][method]]
    kept = f"--evaluation.base_pictures={output_dir / 'base'}"
    overrides = [*shared, *chosen, kept, f"--output_dir={folder}", f"--seed={seed}", "--preview=null"]
    resume = ["--resume=latest"] if folder.exists() else []
    command = [sys.executable, SCRIPT, f"--config={plan['config']}", *overrides, *resume]
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
    rows: dict[str, Any] = {"base": means(base_rows)}
    for method in methods:
        ours, entries = scores(output_dir, method, seeds, "tuned")
        over_base = win_rate(np.concatenate(ours, axis=1), np.concatenate(base, axis=1))
        over_sft = win_rate(np.concatenate(ours, axis=1), np.concatenate(against, axis=1))
        rows[method] = {
            "over_base": asdict(over_base),
            "over_base_by_seed": [win_rate(a, b).rate for a, b in zip(ours, base, strict=True)],
            "over_baseline": None if method == baseline else asdict(over_sft),
            **means(entries),
        }
    used = json.loads((output_dir / f"{methods[0]}-{seeds[0]}" / "report.json").read_text())["versions"]
    judge = {"metric": "oracle", "prompts": len(base[0]), "pictures": base[0].shape[1]}
    return {"baseline": baseline, "seeds": seeds, **judge, "rows": rows, "grid": plan, "versions": used}


def scores(output_dir: Path, method: str, seeds: list[int], model: str) -> tuple[list[np.ndarray], list[dict]]:
    """The oracle's utilities (prompts x pictures) and the report's entry of a model, for each seed."""
    utilities, rows = [], []
    for seed in seeds:
        folder = output_dir / f"{method}-{seed}"
        report = json.loads((folder / "report.json").read_text())
        pictures = (folder / "evaluation" / model / "prompts.jsonl").read_text().splitlines()
        each = np.array([json.loads(line)["scores"]["oracle"] for line in pictures], dtype=float)
        utilities.append(each.reshape(report["n_prompts"], -1))
        rows.append(report["models"][model])
    return utilities, rows


def means(rows: list[dict]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in ASPECTS}


def table(found: dict[str, Any]) -> str:
    """One row per method."""
    lines = [
        f"| model | win rate over base | by seed | win rate over {found['baseline']} | attributes right | style "
        "| diversity |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in found["rows"].items():
        by_seed = ", ".join(f"{100 * rate:.1f}" for rate in row.get("over_base_by_seed", []))
        rates = [shown(row[key]) if row.get(key) else "" for key in ("over_base", "over_baseline")]
        numbers = f"{100 * row['attributes']:.1f} % | {row['style']:.3f} | {row['diversity']:.3f}"
        lines.append(f"| {name} | {rates[0]} | {by_seed} | {rates[1]} | {numbers} |")
    return "\n".join(lines)


def shown(rate: dict[str, float]) -> str:
    return f"{100 * rate['rate']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"


if __name__ == "__main__":
    launch(main)
