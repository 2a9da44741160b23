"""What a finished run leaves behind: one small file, from which a table goes on without the run's folder."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from diffpo.cli.overrides import flatten_config
from diffpo.core.refusal import Refusal
from diffpo.storage.digests import digest_of, naming_damage, read_json, read_named
from diffpo.storage.files import CONFIG
from diffpo.storage.ledger import replace_file

ROUND = "round-"  # what the folder of a round's number follows
CONTEST, TUNING, COST = "contest", "tuning", "cost.json"
DIGITS = 5  # of what is kept of a number after the point: pictures whose utilities differ by less are a tie
FREE = ("seed", "output_dir", "resume")


@dataclass(frozen=True)
class Runs:
    """Finished runs: their folders, or what is recorded of them.

    Attributes:
        folder: holds one folder for each run.
        records: holds one file for each run; None keeps no records.
        grid: the folder of the grid, which records call `{output}`; None is that of the runs.
    """

    folder: Path
    records: Path | None = None
    grid: Path | None = None

    @property
    def top(self) -> Path:
        """The folder of the grid."""
        return self.grid or self.folder

    def inside(self, name: str) -> "Runs":
        """The same of runs that lie one folder deeper."""
        return Runs(self.folder / name, self.records / name if self.records else None, self.top)

    def file(self, run: str) -> Path | None:
        return self.records / f"{run}.json" if self.records else None

    def numbers(self, run: str) -> dict[str, Any]:
        """What the tables need of a run, from its record if there is one.

        Raises:
            Refusal: if what is there is damaged.
        """
        file = self.file(run)
        if file is None or not file.exists():
            return summarize_run(self.folder / run)
        with naming_damage(file):
            return read_json(file)["numbers"]

    def is_recorded(self, run: str, asked: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
        """Whether a run needs no folder any more.

        Args:
            asked: what would run now, see `leave`.
            expected: its resolved config, flat; keys that it lacks are not compared.

        Raises:
            Refusal: if the record is of something else.
        """
        file = self.file(run)
        if file is None or not file.exists():
            return False
        with naming_damage(file):
            said = read_json(file)
            then, now = flatten_config(said["asked"]), flatten_config(asked)
            config = flatten_config(said["config"])
        odd = [key for key in then | now if then.get(key) != now.get(key)] + find_other(config, expected)
        if odd:
            raise Refusal(
                f"{file} is of a run with another {odd[0]} than the grid and its files say now; delete it to run that "
                "anew."
            )
        return True

    def leave(self, run: str, asked: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        """Record a run that is finished.

        Args:
            asked: overrides with placeholders of folders, and digests of the files that are read.
            expected: see `is_recorded`.

        Raises:
            Refusal: if what it left is damaged or of something else, or the record cannot be written.
        """
        file, folder = self.file(run), self.folder / run
        if file is None:
            return
        placed: Any = {}
        if (written := folder / CONFIG).exists():
            with naming_damage(written):
                placed = name_folder(yaml.safe_load(written.read_text()), str(self.top))
                odd = find_other(flatten_config(placed), expected)
            if odd:
                raise Refusal(f"{written} has another {odd[0]} than the grid says; delete {folder} to run it anew.")
        self.write(run, {"asked": dict(asked), "config": placed, "numbers": summarize_run(folder)})

    def write(self, run: str, record: Mapping[str, Any]) -> None:
        """Each of its parts is a line."""
        file = self.file(run)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            parts = ",\n".join(f"{json.dumps(name)}: {json.dumps(part)}" for name, part in record.items())
            replace_file(file, f"{{\n{parts}\n}}\n".encode())


def find_other(config: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Keys of a flat config that are not what is expected of them.

    One that it lacks is an option that came later: what was asked for is compared besides, so nothing has set it.
    """
    return [key for key, value in expected.items() if key not in FREE and config.get(key, value) != value]


def name_folder(tree: Any, folder: str) -> Any:
    """A config with `{output}` for a folder and what lies in it."""
    if isinstance(tree, dict):
        return {name: name_folder(branch, folder) for name, branch in tree.items()}
    if isinstance(tree, list):
        return [name_folder(branch, folder) for branch in tree]
    inside = isinstance(tree, str) and f"{tree}/".startswith(f"{folder}/")
    return "{output}" + tree.removeprefix(folder) if inside else tree


def summarize_run(folder: Path) -> dict[str, Any]:
    """What tables need of a finished run: the report's numbers of each model, and the oracle's utilities."""
    found = summarize_report(folder, folder / "evaluation", ("base", "tuned"))
    if rounds := summarize_rounds(folder / "report.json"):
        found["rounds"] = rounds
    for name, file in (("best", folder / "best.json"), ("cost", folder / COST)):
        if file.exists():
            found[name] = read_json(file)
    return found


def summarize_rounds(file: Path) -> list[dict[str, Any]]:
    """Numbers of the models of all rounds but the last, in their order, if a report has them."""
    with naming_damage(file):
        models = read_json(file)["models"]
        return [pick_numbers(models[name]) for name in sorted(models) if name.startswith(ROUND)]


def pick_numbers(model: Mapping[str, Any]) -> dict[str, Any]:
    return {key: x for key, x in model.items() if x is None or type(x) in (int, float)}


def summarize_report(folder: Path, pictures: Path, models: Iterable[str]) -> dict[str, Any]:
    """What tables need of a report: numbers of models, and the oracle's utilities (prompts x pictures).

    Args:
        pictures: holds a folder with a listing for each model.
    """
    file = folder / "report.json"
    with naming_damage(file):
        report = read_json(file)
        prompts, versions, entries = int(report["n_prompts"]), report["versions"], dict[str, Any]()
        for name in models:
            entries[name] = pick_numbers(report["models"][name])
    utilities = {name: oracle(pictures / name / "prompts.jsonl", prompts).round(DIGITS).tolist() for name in entries}
    return {"n_prompts": prompts, "versions": versions, "models": entries, "utilities": utilities}


def oracle(listing: Path, prompts: int) -> np.ndarray:
    """Its utilities (prompts x pictures) of a model's pictures."""
    with naming_damage(listing):
        lines = read_named(listing).splitlines()
        if not lines:
            raise ValueError("it is empty")
        return np.array([json.loads(line)["scores"]["oracle"] for line in lines], dtype=float).reshape(prompts, -1)


def digest_named(values: Iterable[Any]) -> dict[str, str]:
    """Digests of the files and folders that settings name, those of the folders of a grid left out."""
    texts = {value for value in values if isinstance(value, str) and value and "{" not in value}
    return {text: digest_place(text) for text in sorted(texts) if names_a_place(text)}


def names_a_place(text: str) -> bool:
    try:
        return len(text) < 256 and text not in (".", "/") and Path(text).exists()
    except (OSError, ValueError):
        return False


@cache
def digest_place(text: str) -> str:
    """Of a file, or of all files of a folder with their names."""
    place = Path(text)
    if place.is_file():
        return digest_of(place)["sha256"][:16]
    found = hashlib.sha256()
    for file in sorted(path for path in place.rglob("*") if path.is_file()):
        found.update(f"{file.relative_to(place)} {digest_of(file)['sha256']}\n".encode())
    return found.hexdigest()[:16]
