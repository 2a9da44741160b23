"""What a run of a grid is asked for, whichever folders it lies in: by that its record is known."""

from collections.abc import Mapping
from typing import Any

from diffpo.cli.overrides import flatten_config
from diffpo.lab.evidence.grid import Grid
from diffpo.lab.evidence.programs import placed
from diffpo.lab.evidence.records import digest_named


def ask(plan: Grid, resolved: Mapping[str, Any], method: str, seed: int) -> dict[str, Any]:
    """What a run is started with, folders as placeholders, and digests of all files that it reads besides."""
    files = [plan.program_of(method).config, plan.score, plan.encode, *expect(resolved, method, plan).values()]
    overrides = [*plan.reads, *plan.also, *plan.methods[method]]
    prepared = {"prepare": plan.prepare} if plan.prepare else {}
    other = {"script": plan.others[method].script} if method in plan.others else {}
    return {"overrides": overrides, **other, "seed": seed, "cost": plan.cost, **prepared, "files": digest_named(files)}


def expect(resolved: Mapping[str, Any], method: str, plan: Grid) -> dict[str, Any]:
    """The resolved config of a method, flat; empty if it was not resolved."""
    if method not in resolved["rows"]:
        return {}
    row = resolved["rows"][method]
    common = {key: value for key, value in flatten_config(resolved["common"]).items() if key not in row["lacks"]}
    pairs = "encoded" if plan.encode is not None else "scored"
    return name_placeholders(common | row["has"], pairs)


def name_placeholders(config: dict[str, Any], pairs: str) -> dict[str, Any]:
    """A flat config with the scores' folder named as it lies in that of the grid."""
    return {
        key: placed(value, {"{scores}": f"{{output}}/{pairs}"}) if isinstance(value, str) else value
        for key, value in config.items()
    }
