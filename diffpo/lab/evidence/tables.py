"""What the runs of a grid say together: win rates over base and baseline, and further numbers, as one table."""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import numpy as np

from diffpo.cli.overrides import flatten_config, read_option, shorten
from diffpo.core.refusal import Refusal
from diffpo.evaluation.win_rates import WinRate, win_rate
from diffpo.lab.evidence.grid import ASPECTS, Compare, Grid
from diffpo.lab.evidence.records import CONTEST, Runs, summarize_report
from diffpo.storage.digests import naming_damage, read_json


def candidates(values: dict[str, dict[str, list]]) -> dict[str, dict[str, list[str]]]:
    """For each method that is tuned, the runs that try a value, or one of each of two: their names and overrides.

    Raises:
        SystemExit: if a method has more than two arguments to tune, or none.
    """
    tries: dict[str, dict[str, list[str]]] = {}
    for method, arguments in values.items():
        if len(arguments) not in (1, 2):
            sys.exit(f"error: {method} is tuned by {len(arguments)} arguments; take one, or two at most.")
        tries[method] = {
            "-".join([method, *map(str, some)]): [
                f"--{name}={value}" for name, value in zip(arguments, some, strict=True)
            ]
            for some in product(*arguments.values())
        }
    return tries


def swept(
    tries: dict[str, list[str]], runs: Runs, seed: int, by: str = "utility", unseen: float = 0.0
) -> dict[str, float]:
    """Mean utility of each run that tried a value, or its win rate over the base; see `Tune`."""
    found = dict[str, float]()
    for name in tries:
        tuned, base = (np.array(scores(runs, name, [seed], model)[0]) for model in ("tuned", "base"))
        won = np.sign(even_out(tuned, base, unseen) - base)
        found[name] = float(np.mean((1 + won) / 2 if by == "win_rate" else tuned))
    return found


def even_out(ours: np.ndarray, theirs: np.ndarray, unseen: float) -> np.ndarray:
    """Our utilities, but theirs where the two differ by no more than nobody sees: a tie."""
    return np.where(abs(ours - theirs) <= unseen, theirs, ours)


def compare_resolved(
    common: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], overrides: Mapping[str, Iterable[str]]
) -> dict[str, dict[str, Any]]:
    """What each row of a grid has else than the part that all have in common, by name on a command line.

    Args:
        common: the resolved config of a run without overrides of its own.
        rows: that of each row; of a row that another script runs, options that only one of the two scripts has are
            told and need not be named.
        overrides: of each row.

    Returns:
        For each row `has`, the values that are others, and `lacks`, the names that its classes do not know.

    Raises:
        Refusal: if a row has another value, or lacks one, that none of its overrides names: a class that is chosen
            brings its own defaults, and rows that were not meant to differ in them are no comparison.
    """
    ours, found = flatten_config(common), dict[str, dict[str, Any]]()
    for row, resolved in rows.items():
        theirs = flatten_config(resolved)
        named = {name for override in overrides[row] for name in read_option([override])}
        differs = sorted(key for key in ours.keys() | theirs.keys() if not same(key, ours, theirs))
        odd = [key for key in differs if not explained(key, ours, theirs, named)]
        if odd:
            here, there = (one.get(odd[0], "absent") for one in (theirs, ours))
            raise Refusal(
                f"Row {row} of the grid differs from what its rows have in common in {len(odd)} values that it does "
                f"not name, the first is {odd[0]}: {here}, in common {there}; name it in the row: --{odd[0]}=..."
            )
        has = {key: theirs[key] for key in differs if key in theirs}
        found[row] = {"has": has, "lacks": [key for key in differs if key not in theirs]}
    return found


def same(key: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return key in one and key in other and one[key] == other[key]


def explained(key: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], named: set[str]) -> bool:
    """Whether a row names a key that differs or, where one of the two lacks it, what decides whether it is there."""
    lacking = ours if key in theirs else theirs
    if key in ours and key in theirs:
        return key in named
    if key.partition(".")[0] not in {other.partition(".")[0] for other in lacking}:  # an option of one script alone
        return True
    if any(other.startswith(f"{key}.") for other in lacking):  # null, in place of the values below it
        return True
    while key not in named and key not in lacking and "." in key:
        key = key.rpartition(".")[0]
    switched_on = lacking.get(key) is None and any(name.startswith(f"{key}.") for name in named)
    return key in named or switched_on


def row_line(row: str, differs: Mapping[str, Any]) -> str:
    """What makes a row, as `compare_resolved` has found."""
    said = [f"{key} {shorten(value)}" for key, value in differs["has"].items()]
    said += [f"no {key}" for key in differs["lacks"]]
    return f"{row}: {', '.join(said) or 'nothing else than what all have in common'}"


def measured(plan: Grid, runs: Runs, chosen: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """All numbers of the table; intervals are bootstrapped over prompts and seeds.

    Args:
        chosen: overrides of the methods that were tuned.
    """
    methods, baseline, seeds = list(plan.methods), plan.baseline, plan.seeds
    base, base_rows = scores(runs, methods[0], seeds, "base")
    against, _ = scores(runs, baseline, seeds, "tuned")
    rival = plan.rival
    third = scores(runs, rival, seeds, "tuned")[0] if rival else None
    aspects = plan.aspects
    rows: dict[str, Any] = {"base": means(base_rows, aspects)}
    for method in methods:
        ours, entries = scores(runs, method, seeds, "tuned")
        rows[method] = (rates(ours, base, against) if plan.win_rates else {}) | means(entries, aspects)
        if plan.by_round:
            rows[method]["by_round"] = tell_rounds(runs, method, seeds, plan.by_round)
        if plan.cost:
            rows[method]["cost"] = entries[0]["cost"]
        if plan.unseen is not None and plan.win_rates:
            seen = [even_out(a, b, plan.unseen) for a, b in zip(ours, base, strict=True)]
            rows[method]["over_base_seen"] = asdict(win_rate_over_seeds(seen, base))
        if third and method != rival and plan.win_rates:
            rows[method]["over_rival"] = asdict(win_rate_over_seeds(ours, third))
        if chosen:
            rows[method]["tuned"] = ", ".join(map(spoken, chosen.get(method, [])))
    rows[baseline] |= {"over_baseline": None} if plan.win_rates else {}
    used = runs.numbers(f"{methods[0]}-{seeds[0]}")["versions"]
    judge = {"metric": "oracle", "prompts": len(base[0]), "pictures": base[0].shape[1]}
    return {
        "baseline": baseline,
        "rival": rival,
        "seeds": seeds,
        **judge,
        **({} if plan.unseen is None else {"unseen": plan.unseen}),
        "resampled": "prompts and seeds",
        "rows": rows,
        "grid": plan.said(),
        "versions": used,
    }


def tell_rounds(runs: Runs, method: str, seeds: Iterable[int], names: Iterable[str]) -> dict[str, list[float]]:
    """Numbers of the base and of what it has become after each round, in the mean over seeds.

    Raises:
        Refusal: if a run did not measure its rounds.
    """
    found = [runs.numbers(f"{method}-{seed}") for seed in seeds]
    ways = [[run["models"]["base"], *run.get("rounds", []), run["models"]["tuned"]] for run in found]
    if odd := [name for name in names for way in ways for model in way if name not in model]:
        raise Refusal(f"Runs of {method} did not measure {odd[0]} after each round; take it out of by_round.")
    return {name: np.mean([[model[name] for model in way] for way in ways], axis=0).tolist() for name in names}


def contested(plan: Grid, compare: Compare, runs: Runs) -> dict[str, Any]:
    """The numbers of the second table; the base is the first model, the baseline of the first table stays that."""
    report = contest_numbers(plan, compare, runs)

    def utilities(name: str) -> list[np.ndarray]:
        return [np.array(report["utilities"][entrant]) for entrant in entrants(plan, compare.models[name], name)]

    base, *_ = names = list(compare.models)
    rival = plan.rival if plan.rival in names else None
    rows: dict[str, Any] = {}
    for name in names:
        entries = [report["models"][entrant] for entrant in entrants(plan, compare.models[name], name)]
        compared = {} if name == base else rates(utilities(name), utilities(base), utilities(plan.baseline))
        if name == plan.baseline:
            compared["over_baseline"] = None
        if rival and name not in (base, rival):
            compared["over_rival"] = asdict(win_rate_over_seeds(utilities(name), utilities(rival)))
        rows[name] = {**compared, "guidance": [entry["guidance"] for entry in entries], **means(entries, ASPECTS)}
    return {"baseline": plan.baseline, "rival": rival, "rows": rows, "sweep": report["guidance_sweep"]}


def contest_numbers(plan: Grid, compare: Compare, runs: Runs) -> dict[str, Any]:
    """What the second table needs of an evaluation, from its record if there is one."""
    file = runs.file(CONTEST)
    if file is not None and file.exists():
        return runs.numbers(CONTEST)
    folder = runs.folder / CONTEST
    names = [entrant for name, fields in compare.models.items() for entrant in entrants(plan, fields, name)]
    found = summarize_report(folder, folder, dict.fromkeys(names))
    with naming_damage(folder / "report.json"):
        return found | {"guidance_sweep": read_json(folder / "report.json")["guidance_sweep"]}


def entrants(plan: Grid, fields: Mapping[str, Any], name: str) -> list[str]:
    """Names under which the model of each seed is evaluated."""
    seeded = "{seed}" in json.dumps(fields)
    return [f"{name}-{seed}" if seeded else name for seed in plan.seeds]


def rates(ours: list[np.ndarray], base: list[np.ndarray], against: list[np.ndarray]) -> dict[str, Any]:
    """Win rates over base and baseline, all seeds together and one by one."""
    return {
        "over_base": asdict(win_rate_over_seeds(ours, base)),
        "over_base_by_seed": [win_rate(a, b).rate for a, b in zip(ours, base, strict=True)],
        "over_baseline": asdict(win_rate_over_seeds(ours, against)),
    }


def win_rate_over_seeds(ours: list[np.ndarray], theirs: list[np.ndarray], resamples: int = 10_000) -> WinRate:
    """Win rate of all seeds together, with a 95 % percentile bootstrap interval over prompts and training seeds.

    Each resample draws as many prompts and, apart from them, as many seeds as there are.

    Args:
        ours, theirs: utilities (prompts x pictures), an array for each seed.
    """
    pooled = win_rate(np.concatenate(ours, axis=1), np.concatenate(theirs, axis=1))
    unknown = [np.isnan(a) | np.isnan(b) for a, b in zip(ours, theirs, strict=True)]
    outcomes = [
        np.where(hole, 0.0, np.where(a == b, 0.5, a > b)) for a, b, hole in zip(ours, theirs, unknown, strict=True)
    ]
    won, known = np.array([each.sum(1) for each in outcomes]), np.array([(~hole).sum(1) for hole in unknown])
    (seeds, prompts), rng = won.shape, np.random.default_rng(0)
    picked = rng.multinomial(prompts, [1 / prompts] * prompts, size=resamples)
    drawn = rng.multinomial(seeds, [1 / seeds] * seeds, size=resamples)
    rates = np.sum((drawn @ won) * picked, axis=1) / np.maximum(np.sum((drawn @ known) * picked, axis=1), 1)
    low, high = np.quantile(rates, [0.025, 0.975])
    return replace(pooled, low=float(low), high=float(high))


def spoken(override: str) -> str:
    """`--objective.loss.beta=0.1` as `beta 0.1`."""
    argument, _, value = override.partition("=")
    return f"{argument.rsplit('.', 1)[-1]} {value}"


def scores(runs: Runs, method: str, seeds: list[int], model: str) -> tuple[list[np.ndarray], list[dict]]:
    """The oracle's utilities (prompts x pictures) and the numbers of a model, for each seed."""
    utilities, rows = [], []
    for seed in seeds:
        found = runs.numbers(f"{method}-{seed}")
        utilities.append(np.array(found["utilities"][model]))
        cost = {"cost": found.get("cost")} if model == "tuned" else {}
        rows.append(found["models"][model] | cost | {"utility": float(utilities[-1].mean())})
    return utilities, rows


def means(rows: list[dict], aspects: dict[str, str]) -> dict[str, float]:
    """Of further numbers; one that a run did not measure, as diversity of single pictures, is left out."""
    measured = [name for name in aspects if all(row[name] is not None for row in rows)]
    return {name: float(np.mean([row[name] for row in rows])) for name in measured}


def format_methods(found: dict[str, Any], aspects: dict[str, str]) -> str:
    """One row per method; with the guidance of each seed and what was tuned, if they were chosen.

    Args:
        aspects: formats of further columns; those of which no row has a number are left out.
    """
    aspects = aspects | {"cost": "{:.3g}"}
    rounds = list(dict.fromkeys(name for row in found["rows"].values() for name in row.get("by_round", {})))
    has_rates = any("over_base" in row for row in found["rows"].values())
    over = {"over_base": "base"}
    if "unseen" in found:
        over["over_base_seen"] = f"base, differences up to {found['unseen']:g} as ties"
    over |= {"over_baseline": found["baseline"], "over_rival": found.get("rival")}
    shapes = {name: shape for name, shape in aspects.items() if any(name in row for row in found["rows"].values())}
    first, *others = [(key, f"win rate over {name}") for key, name in over.items() if name]
    guided, tuned = (any(key in row for row in found["rows"].values()) for key in ("guidance", "tuned"))
    rated = [first[1], "by seed", *(head for _, head in others)] if has_rates else []
    by_round = [f"{name}: base, after each round" for name in rounds]
    columns = ["model", *["tuned"] * tuned, *["guidance"] * guided, *rated, *by_round, *shapes]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for name, row in found["rows"].items():
        scales = sorted({f"{scale:g}" for scale in row.get("guidance", [])}, key=float)
        by_seed = ", ".join(f"{100 * rate:.1f}" for rate in row.get("over_base_by_seed", []))
        over_base, *over_others = [shown(row[key]) if row.get(key) else "" for key, _ in (first, *others)]
        cells = [
            name,
            *[row.get("tuned", "")] * tuned,
            *[", ".join(scales)] * guided,
            *([over_base, by_seed, *over_others] if has_rates else []),
        ]
        cells += [", ".join(f"{x:.3f}" for x in row.get("by_round", {}).get(name, [])) for name in rounds]
        cells += [shape.format(row[name]).replace("%", " %") if name in row else "" for name, shape in shapes.items()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(rate: dict[str, float]) -> str:
    return f"{100 * rate['rate']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
