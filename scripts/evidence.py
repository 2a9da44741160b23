"""Run a grid of methods and seeds on the tiny world and tabulate what the oracle says, base and baseline beside them.

python scripts/evidence.py --grid configs/evidence/diffusion_dpo.yaml --output_dir runs/evidence --readme README.md
"""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import yaml

from diffpo.cli import launch
from diffpo.evaluation import WinRate, win_rate

SCRIPT = "scripts/train_diffusion_dpo.py"


def main(grid: Path, output_dir: Path, jobs: int = 2, readme: Path | None = None, settings: str = "") -> None:
    """Run a grid of methods and seeds, and tabulate.

    Args:
        grid: YAML with `config`, `methods` (name: list of overrides), `seeds` and `baseline` (the name of a method).
        output_dir: gets one folder per run; runs that are finished are not repeated, others are taken up again.
        jobs: processes at a time, one thread each.
        readme: the table replaces what stands between two lines `<!-- evidence: <name of the grid> -->` in it.
        settings: the resolved config.
    """
    plan = yaml.safe_load(grid.read_text())
    todo = [(method, seed) for seed in plan["seeds"] for method in plan["methods"]]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda job: run(plan, *job, output_dir), todo))
    text = table(plan, output_dir)
    print(text)
    (output_dir / "table.md").write_text(text + "\n")
    if readme:
        mark = f"<!-- evidence: {grid.stem} -->"
        before, _, after = re.split(re.escape(mark), readme.read_text())
        readme.write_text(f"{before}{mark}\n{text}\n{mark}{after}")


def run(plan: dict, method: str, seed: int, output_dir: Path) -> None:
    folder = output_dir / f"{method}-{seed}"
    if (folder / "report.json").exists():
        return
    overrides = [*plan["methods"][method], f"--output_dir={folder}", f"--seed={seed}", "--preview=null"]
    resume = ["--resume=latest"] if folder.exists() else []
    command = [sys.executable, SCRIPT, f"--config={plan['config']}", *overrides, *resume]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, env=one_thread)
    print(f"{folder.name} is done", flush=True)


def table(plan: dict, output_dir: Path) -> str:
    """One row per method; intervals are bootstrapped over prompts, a prompt's pictures of all seeds together."""
    methods, baseline = list(plan["methods"]), plan["baseline"]
    base, base_rows = scores(output_dir, methods[0], plan["seeds"], "base")
    against, _ = scores(output_dir, baseline, plan["seeds"], "tuned")
    lines = [
        f"| model | win rate over base | by seed | win rate over {baseline} | attributes right | style | diversity |",
        "|---|---|---|---|---|---|---|",
        f"| base | | | | {means(base_rows)} |",
    ]
    for method in methods:
        ours, rows = scores(output_dir, method, plan["seeds"], "tuned")
        pooled = win_rate(np.concatenate(ours, axis=1), np.concatenate(base, axis=1))
        by_seed = ", ".join(f"{100 * win_rate(a, b).rate:.1f}" for a, b in zip(ours, base, strict=True))
        versus = (
            win_rate(np.concatenate(ours, axis=1), np.concatenate(against, axis=1)) if method != baseline else None
        )
        lines.append(f"| {method} | {shown(pooled)} | {by_seed} | {shown(versus) if versus else ''} | {means(rows)} |")
    return "\n".join(lines)


def scores(output_dir: Path, method: str, seeds: list[int], model: str) -> tuple[list[np.ndarray], list[dict]]:
    """The oracle's utilities (prompts x pictures) and the report's entry of a model, for each seed."""
    utilities, rows = [], []
    for seed in seeds:
        folder = output_dir / f"{method}-{seed}"
        report = json.loads((folder / "report.json").read_text())
        pictures = (folder / "evaluation" / model / "prompts.jsonl").read_text().splitlines()
        each = np.array([json.loads(line)["oracle"] for line in pictures])
        utilities.append(each.reshape(report["n_prompts"], -1))
        rows.append(report["models"][model])
    return utilities, rows


def shown(rate: WinRate) -> str:
    return f"{100 * rate.rate:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def means(rows: list[dict]) -> str:
    attributes, style, diversity = (
        np.mean([row[key] for row in rows]) for key in ("attributes", "style", "diversity")
    )
    return f"{100 * attributes:.1f} % | {style:.3f} | {diversity:.3f}"


if __name__ == "__main__":
    launch(main)
