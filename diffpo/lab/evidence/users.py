"""What several training runs say together of models that draw for users, for the tables of scripts/evidence.py."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from diffpo.diffusion.users.drawing import win_rate_by_users
from diffpo.lab.evidence.tables import shown
from diffpo.storage.digests import read_json

OVER = ("base", "sft", "dpo")  # what win rates are over, where a table has it


def pooled(folders: Sequence[Path]) -> dict[str, Any]:
    """The rows of one table: win rates over pictures of all training runs together, and of each run alone.

    Args:
        folders: what scripts/evaluate_users.py wrote, one for each training run, with the same rows.
    """
    reports = [read_json(folder / "report.json") for folder in folders]
    worth = [{row: np.array(u) for row, u in read_json(folder / "utilities.json").items()} for folder in folders]
    rows: dict[str, Any] = {}
    for row in worth[0]:
        ours = np.concatenate([run[row] for run in worth], axis=2)
        attributes = float(np.mean([report["models"][row]["attributes"] for report in reports]))
        rows[row] = {"utility": float(ours.mean()), "attributes": attributes}
        for other in (name for name in OVER if name in rows and name != row):
            theirs = np.concatenate([run[other] for run in worth], axis=2)
            rows[row][f"over_{other}"] = asdict(win_rate_by_users(ours, theirs))
        if row != "base":
            rows[row]["over_base_by_seed"] = [win_rate_by_users(run[row], run["base"]).rate for run in worth]
    between = [report["between"] for report in reports if "between" in report]
    users, prompts, pictures = worth[0]["base"].shape
    return {"rows": rows, "users": users, "prompts": prompts, "pictures": pictures, "between": between}


def format_group(name: str, found: Mapping[str, Any]) -> str:
    """One group of users: a row for each model and number of support pairs."""
    over = [other for other in OVER if any(f"over_{other}" in row for row in found["rows"].values())]
    columns = [name, *(f"win rate over {other}" for other in over), "over base, by seed", "utility", "attributes"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for model, row in found["rows"].items():
        rates = [shown(row[f"over_{other}"]) if f"over_{other}" in row else "" for other in over]
        by_seed = ", ".join(f"{100 * rate:.1f}" for rate in row.get("over_base_by_seed", []))
        cells = [model, *rates, by_seed, f"{row['utility']:.3f}", f"{100 * row['attributes']:.1f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def curve(found: Mapping[str, Any]) -> str:
    """What mixtures of two users are worth to each of the two, in the mean over training runs."""
    first = found["between"][0]
    lines = [
        "| weight of the second user | " + " | ".join(f"{weight:g}" for weight in first["weights"]) + " |",
        "|---|" + "---|" * len(first["weights"]),
    ]
    for user in first["users"]:
        means = np.mean([between["utility"][user] for between in found["between"]], axis=0)
        lines.append(f"| utility for {user} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    return "\n".join(lines)
