"""The configs that come along, as a table: what they train, on what, with how many GPUs, after whom."""

import re
import sys
from pathlib import Path
from typing import Any

import yaml

from diffpo.storage.shipped import list_recipes, name_recipe

USE = "diffpo train --config <recipe> --output_dir <folder>; --config takes a recipe's name, or the end of it."
PAPER = re.compile(r"arXiv:\d{4}\.\d{5}")
GPUS = re.compile(r"\b(\d+) GPUs?\b")
WIDTHS = 36, 30, 44, 5, 7


def list_all(words: list[str]) -> str:
    """A line for each recipe whose name holds one of the words, or for all."""
    rows = [("recipe", "method", "base", "GPUs", "batch", "source")]
    for path in list_recipes():
        if not words or any(word in name_recipe(path) for word in words):
            rows.append((name_recipe(path), *describe_recipe(path)))
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, WIDTHS, strict=False)) for row in rows]
    return "\n".join([*(f"{line}  {row[-1]}".rstrip() for line, row in zip(lines, rows, strict=True)), "", USE])


def describe_recipe(path: Path) -> tuple[str, str, str, str, str]:
    """Method, base, GPUs, pairs per step and papers of a recipe; empty where it says nothing of it."""
    text = path.read_text()
    config: dict[str, Any] = yaml.safe_load(text)
    head = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    objective, base, fit = (config.get(key) or {} for key in ("objective", "base", "fit"))
    method = str(objective.get("class_path", "")).removeprefix("diffpo.")
    papers = ", ".join(dict.fromkeys(PAPER.findall(head)))
    gpus = GPUS.search(head)
    where = base.get("path") or base.get("init_args", {}).get("path", "")
    return method, str(where), gpus[1] if gpus else "", str(fit.get("batch_size", "")), papers


def main(words: list[str]) -> None:
    if any(word in ("-h", "--help") for word in words):
        print("usage: diffpo recipes [word ...]\n\nLists the recipes whose name holds a word; without one, all.")
        return
    table = list_all(words)
    if table.count("\n") < 3:
        sys.exit(f"error: no recipe's name holds {' or '.join(words)}; `diffpo recipes` lists all.")
    print(table)
