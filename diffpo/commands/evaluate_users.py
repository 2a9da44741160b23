"""Compare models that draw for synthetic users of the tiny world: each judges by the own taste, without noise.

accelerate launch scripts/evaluate_users.py --config configs/evaluate/tiny_users.yaml --output_dir runs/users/held-out
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import transformers
from diffusers.utils import make_image_grid
from PIL import Image

from diffpo.annotators.embedders.embedder import UserEmbedder
from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import read_image
from diffpo.data.source import Source
from diffpo.diffusion.evaluation.compare import write_report, write_sheet
from diffpo.diffusion.evaluation.drawing import Sampling
from diffpo.diffusion.users.drawing import Files, Support, UserModel, drawn_for, drawn_for_users
from diffpo.diffusion.users.pipelines import interpolate_users
from diffpo.evaluation.prompts import Prompts
from diffpo.evaluation.win_rates import format_report, list_versions
from diffpo.lab.users.comparison import compare_rows, judge_pictures, utilities
from diffpo.lab.users.tastes import Population, Taste
from diffpo.processes.everyone import on_main
from diffpo.storage.files import name_failed_writes, require_name
from diffpo.storage.job_folder import join_processes
from diffpo.storage.ledger import REMEDY, as_json, write_named
from diffpo.storage.lock import take_lock
from diffpo.train.state.checkpoint import CONFIG

INTERVAL = "percentile bootstrap, 95 %, users and prompts resampled independently"
SIDE = 96  # of a picture on a sheet


@dataclass(frozen=True)
class UserMixtures:
    """Drawing for mixtures of two users.

    Args:
        model: name of one that hears users.
        users: ids of the two.
        shots: support pairs of each.
        weights: of the second user.
    """

    model: str
    users: tuple[str, str]
    shots: int = 4
    weights: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Sheets:
    """Pictures to look at: `users.png`, a row per prompt, first the pictures of the first model, then one per user.

    Args:
        row: of the tables, whose pictures are shown.
        prompts: numbers of the evaluation prompts.
        users: the first so many.
    """

    row: str
    prompts: tuple[int, ...] = (0, 1, 2, 3)
    users: int = 8


def main(
    models: list[UserModel],
    tastes: Path,
    support: Source,
    embedder: UserEmbedder,
    prompts: Prompts,
    output_dir: Path,
    sampling: Sampling,
    between: UserMixtures | None = None,
    sheets: Sheets | None = None,
    users: list[str] | None = None,
    seed: int = 0,
    settings: str = "",
) -> None:
    """Compare models that draw for synthetic users of the tiny world: each judges by the own taste, without noise.

    Args:
        models: what is compared; the first, a base, is what win rates in the terminal are over.
        tastes: users.json of scripts/build_assets.py users.
        support: pairs with `user_id`. Embeddings are made of some of each user's pairs.
        embedder: the one that the models were trained with.
        prompts: what is drawn for every user.
        output_dir: gets `report.json`, `utilities.json` (of every row of the tables: users x prompts x pictures),
            pictures and sheets. The same command again goes on where a stopped one was.
        sampling: how all models draw; the same seeds for every model and user.
        between: mixtures of two users; null draws none.
        sheets: pictures to look at; null makes none.
        users: ids of those who judge; null are all users of `support` who have enough pairs.
        seed: of which pairs are support.
        settings: the resolved config.
    """
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    state = join_processes()
    lock = on_main(lambda: take_lock(output_dir, "evaluation of users"))
    began, asked = time.perf_counter(), [record["prompt"] for record in prompts.read()]
    people = Population.read(tastes).all
    heard = Support.of(embedder, support, most_shots(models, between), seed)
    require_names(models, heard, people, between, sheets, users)
    if users:
        heard = heard.only(users)
    with name_failed_writes(f"output_dir {output_dir}", REMEDY):
        if state.is_main_process:
            (output_dir / CONFIG).write_text(settings)
    rows: dict[str, Files] = {}
    for model in models:
        rows |= drawn_for_users(model, heard, asked, sampling, output_dir)
    mixtures = drawn_between(between, models, heard, asked, sampling, output_dir) if between else {}
    if state.is_main_process:
        seconds = round(time.perf_counter() - began, 1)
        report = {"seed": sampling.first_seed, "n_prompts": len(asked), **asdict(sampling), "seconds": seconds}
        report |= {"versions": list_versions(), "interval": INTERVAL, "support": dict(heard.identity)}
        judging = {user: people[user] for user in heard.shown}
        worth = judge_pictures(rows, judging, asked)
        report |= compare_rows(rows, worth, judging, asked)
        write_named(output_dir / "utilities.json", as_json({row: found.tolist() for row, found in worth.items()}))
        if between:
            report["between"] = asdict(between) | {"utility": measure_mixtures(mixtures, between, people, asked)}
            draw_user_sheet(
                list(mixtures.values()),
                range(0, min(4, len(asked)) * sampling.pictures, sampling.pictures),
                output_dir / "between.png",
            )
        if sheets:
            users = list(heard.shown)[: sheets.users]
            columns = [rows[models[0].rows[0]][users[0]], *(rows[sheets.row][user] for user in users)]
            draw_user_sheet(
                columns, [number * sampling.pictures for number in sheets.prompts], output_dir / "users.png"
            )
        write_report(report, output_dir)
        print(format_users(report))
    if lock:
        lock.release()
    state.end_training()


def most_shots(models: Sequence[UserModel], between: UserMixtures | None) -> int:
    """Support pairs that every user has to have."""
    heard = [shots for model in models if model.user_attention for shots in model.shots]
    return max([1, *heard, *([between.shots] if between else [])])


def require_names(
    models: Sequence[UserModel],
    support: Support,
    people: Mapping[str, Taste],
    between: UserMixtures | None,
    sheets: Sheets | None,
    judging: Sequence[str] | None = None,
) -> None:
    """Raise a Refusal, before anything is drawn, if something is named that there is not, or cannot name a folder."""
    users, rows = list(support.shown), [row for model in models for row in model.rows]
    hearing = [model.name for model in models if model.user_attention]
    if len(rows) != len(set(rows)):
        raise Refusal(f"Two rows of the table have one name in {rows}; give each model a name of its own.")
    asked = [("users", user, users) for user in judging or ()] + [("tastes", user, list(people)) for user in users]
    if between:
        asked += [
            ("between.model", between.model, hearing),
            *(("between.users", user, judging or users) for user in between.users),
        ]
    if sheets:
        asked.append(("sheets.row", sheets.row, rows))
    for user in judging or users:
        require_name(user, "a user")
    for where, name, known in asked:
        if name not in known:
            raise Refusal(f"{where}: there is no {name!r} among {', '.join(known)}; name one of these.")


def drawn_between(
    between: UserMixtures,
    models: Sequence[UserModel],
    support: Support,
    asked: Sequence[str],
    sampling: Sampling,
    folder: Path,
) -> dict[float, list[Path]]:
    """Pictures by the weight of the second user."""
    (model,) = [model for model in models if model.name == between.model]
    load, ends = cache(model.hearing), [support.tokens(user, between.shots) for user in between.users]
    about = {"between": list(between.users), "shots": between.shots, "support": dict(support.identity)}
    return {
        weight: drawn_for(
            model,
            load,
            interpolate_users([(1 - weight, ends[0]), (weight, ends[1])]),
            asked,
            sampling,
            folder / "between" / f"{weight:g}",
            about | {"weight": weight},
        )
        for weight in between.weights
    }


def measure_mixtures(
    mixtures: Mapping[float, list[Path]], between: UserMixtures, people: Mapping[str, Taste], asked: Sequence[str]
) -> dict[str, list[float]]:
    """Mean utility of the mixtures' pictures for each of the two users."""
    return {
        user: [float(utilities(files, people[user], asked).mean()) for files in mixtures.values()]
        for user in between.users
    }


def draw_user_sheet(columns: Sequence[Sequence[Path]], numbers: Sequence[int], file: Path) -> None:
    """A row for each number of a picture."""
    shown = [read_image(str(files[number])) for number in numbers for files in columns]
    enlarged = [picture.resize((SIDE, SIDE), Image.Resampling.NEAREST) for picture in shown]
    write_sheet(make_image_grid(enlarged, rows=len(numbers), cols=len(columns)), file)


def format_users(report: Mapping[str, Any]) -> str:
    """One row per model and number of shots."""
    first = next(iter(report["models"]))
    over = {pair["a"]: format_report(pair) for pair in report["pairs"] if pair["b"] == first}
    width = max(len(row) for row in report["models"]) + 2
    lines = [f"{'':<{width}}{'utility':>10}{f'win rate over {first}':>28}{'attributes':>12}"]
    for row, entry in report["models"].items():
        rate, attributes = over.get(row, "-"), entry["attributes"]
        lines.append(f"{row:<{width}}{entry['scores']['taste']['mean']:>10.4f}{rate:>28}{attributes:>12.3f}")
    return "\n".join(lines)
