"""The second table of a grid: models of all its runs, evaluated together."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from diffpo.cli.overrides import flatten_config
from diffpo.diffusion.evaluation.drawing import digest_texts
from diffpo.lab.evidence.asked import ask
from diffpo.lab.evidence.grid import Compare, Grid
from diffpo.lab.evidence.programs import EVALUATE, ONE_THREAD, placed, programs, words_of
from diffpo.lab.evidence.records import CONTEST, Runs, digest_named
from diffpo.lab.evidence.tables import contest_numbers, entrants


@dataclass(frozen=True)
class Contest:
    """The evaluation of all models of all seeds together, each at its own best guidance if its config says so.

    Attributes:
        asked: what it is of.
        is_recorded: whether it needs no folders any more.
    """

    plan: Grid
    compare: Compare
    runs: Runs
    asked: Mapping[str, Any]
    is_recorded: bool

    @classmethod
    def of(cls, plan: Grid, compare: Compare, resolved: Mapping[str, Any], runs: Runs) -> "Contest":
        """Look for the record.

        Raises:
            Refusal: if it is of something else.
        """
        rows = {f"{row}-{seed}": ask(plan, resolved, row, seed) for row in plan.methods for seed in plan.seeds}
        named = [value for fields in compare.models.values() for value in fields.values()]
        config = Path(compare.config)
        said = yaml.safe_load(config.read_text()) if config.exists() else {}  # who evaluates says what is missing
        asked = {
            "models": {name: {**fields} for name, fields in compare.models.items()},
            "runs": {name: digest_texts([json.dumps(wanted)]) for name, wanted in rows.items()},
            "files": digest_named([compare.config, *named, *flatten_config(said).values()]),
        }
        return cls(plan, compare, runs, asked, runs.is_recorded(CONTEST, asked, {}))

    def hold(self, jobs: int) -> None:
        """Draw, judge and record, unless it is recorded."""
        if self.is_recorded:
            return
        folder, models = self.runs.folder, {}
        for name, fields in self.compare.models.items():
            for entrant, seed in zip(entrants(self.plan, fields, name), self.plan.seeds, strict=True):
                places = {"{output}": str(folder), "{seed}": str(seed)}
                filled = {
                    key: placed(value, places) if isinstance(value, str) else value for key, value in fields.items()
                }
                models[entrant] = {"name": entrant, **filled}
        listed = folder / f"{CONTEST}.yaml"
        listed.write_text(yaml.safe_dump({"models": list(models.values())}))
        configs = [f"--config={self.compare.config}", f"--config={listed}", f"--output_dir={folder / CONTEST}"]
        launched = [sys.executable, "-m", "accelerate.commands.launch", f"--num_processes={jobs}", "--cpu"]
        programs.run([*launched, "--module", *words_of(EVALUATE), *configs], environment=ONE_THREAD)
        numbers = contest_numbers(self.plan, self.compare, self.runs)
        self.runs.write(CONTEST, {"asked": dict(self.asked), "config": {}, "numbers": numbers})
