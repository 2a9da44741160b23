"""What the model cards of all tracks say: where the data are, what was measured, under which license."""

import json
import logging
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from diffpo import __version__
from diffpo.cli.names import find_public_path
from diffpo.core.objective import Objective
from diffpo.core.refusal import Refusal
from diffpo.evaluation.report import Report
from diffpo.evaluation.win_rates import list_versions
from diffpo.storage.digests import read_json
from diffpo.storage.hub import LICENSES
from diffpo.train.run import METRICS
from diffpo.train.state.best import describe_best

log = logging.getLogger(__name__)


def write_opening(
    name: str, base: str, data: str, objective: Objective, ema: float | None, best: Mapping[str, Any] | None = None
) -> list[str]:
    """Sections that say what this is.

    Args:
        base: hub id or path of what was tuned.
        data: on what.
        ema: decay of the moving average that the weights are, or None.
        best: what `best.json` says; None if the weights are the last of the run.
    """
    method = find_public_path(type(objective))
    averaged = f"the moving average of the run (decay {ema})" if ema else "those" if best else "the last of the run"
    chosen = f" {describe_best(best)}" if best else ""
    tuned = f"`{base}` tuned on {data} by diffpo {__version__} (`{method}`)."
    return [f"# {name}", tuned, f"The weights are {averaged}{chosen}."]


def write_closing(folder: Path, base: str, settings: str, command: Sequence[str]) -> list[str]:
    """Sections that say how it was made and what was measured, some of them empty.

    Args:
        folder: of the run, with what was logged and reported by now.
        settings: the resolved config.
        command: script and arguments of the run.
    """
    return [
        f"```bash\naccelerate launch {shlex.join(command)}\n```" if command else "",
        last_metrics(folder),
        write_verdicts(folder),
        f"## License\n\n{license_note(base)}",
        f"## Recipe\n\n{', '.join(f'{name} {number}' for name, number in list_installed().items())}",
        f"```yaml\n{settings.strip()}\n```",
    ]


def find_paths(tree: Any) -> list[str]:
    """What sources call `path`, in mixtures of sources too."""
    if isinstance(tree, dict):
        return [found for name, x in tree.items() for found in ([x] if name == "path" else find_paths(x))]
    return [found for x in tree for found in find_paths(x)] if isinstance(tree, list | tuple) else []


def last_metrics(folder: Path) -> str:
    """The last value of each metric, without those by quarter of the schedule."""
    if not (folder / METRICS).exists():
        return ""
    lines = list(metrics_in(folder / METRICS))
    if not lines:
        return ""
    last = {name: value for line in lines for name, value in line.items() if not re.search(r"/t\d+-\d+$", name)}
    rows = [f"| {name} | {value:.4g} |" for name, value in last.items() if name != "step"]
    return "\n".join([f"| last of `{METRICS}` | step {last['step']} |", "|---|---|", *rows])


def metrics_in(file: Path) -> Iterator[dict[str, Any]]:
    """What was logged; a line that a kill or a full disk has cut is left out, which is told."""
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            logged = json.loads(line)
        except ValueError:
            logged = None
        if isinstance(logged, dict) and "step" in logged:
            yield logged
        else:
            log.warning(f"Line {number} of {file} is damaged; the card is written without it.")


def write_verdicts(folder: Path) -> str:
    """Win rates with their intervals and each model's figures, from `report.json`."""
    if not (folder / "report.json").exists():
        return ""
    try:
        report: Report = read_json(folder / "report.json")
    except Refusal as refusal:
        log.warning(f"The card is written without what was measured: {refusal}")
        return ""
    wins = [
        f"- `{pair['a']}` wins {pair['win_rate']:.1%} [{pair['win_rate_low']:.1%}, {pair['win_rate_high']:.1%}] "
        f"against `{pair['b']}` on {report['n_prompts']} prompts, by {pair['metric']}"
        for pair in report["pairs"]
    ]
    models = report["models"]
    columns = [key for key, x in next(iter(models.values())).items() if isinstance(x, float) and key != "guidance"]
    rows = [f"| {name} | {' | '.join(f'{entry[key]:.3f}' for key in columns)} |" for name, entry in models.items()]
    lines = [*wins, "", f"| model | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}", *rows]
    return "\n".join(["## Evaluation", "", *lines])


def license_note(path: str) -> str:
    known = LICENSES.get(path)
    if known is None:
        return f"The weights derive from `{path}`, whose license applies to them."
    name = f"[{known['license_name']}]({known['license_link']})" if "license_link" in known else known["license"]
    return f"The weights derive from `{path}`, whose license ({name}) applies to them."


def list_installed() -> dict[str, str]:
    return list_versions() | {"accelerate": version("accelerate")}
