"""Models side by side: the same prompts and seeds, every scorer, one report."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from diffusers.utils import make_image_grid
from jaxtyping import Float
from PIL import Image

from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import BrokenImage, read_image
from diffpo.diffusion.evaluation.drawing import Sampling, draw_or_copy, draw_pictures
from diffpo.diffusion.evaluation.fidelity import FrechetDistance
from diffpo.diffusion.evaluation.listing import LISTING
from diffpo.diffusion.evaluation.model import lead_away, list_warnings
from diffpo.diffusion.evaluation.page import write_page
from diffpo.diffusion.evaluation.scores import Judges, ModelPictures
from diffpo.diffusion.model.pipeline import family_of
from diffpo.evaluation.prompts import Prompts
from diffpo.evaluation.report import PictureReport, Report
from diffpo.evaluation.scorer import Scorer
from diffpo.evaluation.win_rates import (
    Evaluation,
    Numbers,
    compare_pairs,
    cut_short,
    format_table,
    list_versions,
    summarize_pictures,
)
from diffpo.storage.digests import REPORT
from diffpo.storage.ledger import as_json, write_named
from diffpo.train.state.best import read_best

THUMBNAIL = 64  # diversity is measured on pictures of at most this side


def compare_models(
    pictures: Mapping[str, ModelPictures],
    prompts: Sequence[str],
    judges: Judges,
    sampling: Sampling,
    about: Mapping[str, Mapping[str, Any]],
    frechet: FrechetDistance | None = None,
) -> PictureReport:
    """Judge finished pictures of all models, keep each picture's scores in `prompts.jsonl`, and sum up.

    Args:
        about: what else a model's entry of the report says.
        frechet: how far each model's pictures lie from others.

    Returns:
        The report; its fields are fractions, never percent.

    Raises:
        Refusal: if no picture of a model can be read.
    """
    warned = []
    numbers = {name: judges.numbers(made, prompts, name) for name, made in pictures.items()}
    models = {}
    for name, made in pictures.items():
        unreadable = int(np.isnan(numbers[name][judges.names[0]]).sum())
        if unreadable == len(made.files):
            raise Refusal(f"None of the {unreadable} pictures of {name!r} in {made.folder} can be read.")
        if unreadable:
            warned.append(
                f"{unreadable} of {len(made.files)} pictures of {name} in {made.folder} cannot be read: its numbers, "
                "and every comparison with it, are of the others alone; mend these before you believe them."
            )
        entry = summarize_pictures(numbers[name], judges.names) | {
            "diversity": measure_diversity(made.files, len(prompts))
        }
        if frechet:
            entry["frechet"] = frechet(made.files)
        models[name] = {**about[name], **entry, "unreadable": unreadable}
        if PartialState().is_main_process:
            list_pictures(made, prompts, numbers[name], sampling.first_seed if about[name]["drawn"] else None)
    report: PictureReport = {
        "n_prompts": len(prompts),
        "pictures": sampling.pictures,
        "guidance": find_shared_value(entry["guidance"] for entry in about.values()),
        "steps": sampling.steps,
        "versions": list_versions(),
        "scorers": {
            scorer.name: scorer.identity | {"cut": scorer.count_cut(list(dict.fromkeys(prompts)))}
            for scorer in judges.scorers
        },
        "models": models,
        "pairs": compare_pairs(numbers, judges.names),
        "warnings": warned,
    }
    report["frechet"] = frechet.identity if frechet else None
    return report


def find_shared_value(values: Any) -> Any:
    """The value that all have, or None."""
    different = set(values) - {None}
    return different.pop() if len(different) == 1 else None


def list_pictures(made: ModelPictures, prompts: Sequence[str], numbers: Numbers, first_seed: int | None) -> None:
    """`prompts.jsonl`: one line per picture."""
    per_prompt = len(made.files) // len(prompts)
    lines = []
    for n, file in enumerate(made.files):
        scores = {name: values[n // per_prompt, n % per_prompt] for name, values in numbers.items()}
        line = {
            "prompt": prompts[n // per_prompt],
            "file": file.name if file.parent == made.folder else str(file.resolve()),
            "seed": None if first_seed is None else first_seed + n,
            "scores": {name: None if np.isnan(x) else float(x) for name, x in scores.items()},
        }
        lines.append(json.dumps(line))
    write_named(made.folder / LISTING, ("\n".join(lines) + "\n").encode())


def measure_diversity(files: Sequence[Path], prompts: int) -> float | None:
    """Mean distance of two pictures of one prompt, per channel in [0, 1]; None with one picture per prompt."""
    per_prompt = len(files) // prompts
    distances = []
    for begin in range(0, len(files), per_prompt):
        some = [pixels for file in files[begin : begin + per_prompt] if (pixels := small(file)) is not None]
        distances += [float(abs(one - two).mean()) for one, two in combinations(some, 2)]
    return float(np.mean(distances)) if distances else None


def small(file: Path) -> Float[np.ndarray, "h w 3"] | None:
    try:
        picture = read_image(str(file))
    except BrokenImage:
        return None
    if max(picture.size) > THUMBNAIL:
        picture = picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float32) / 255


@dataclass(frozen=True)
class SideBySide(Evaluation):
    """At the end of a run: base and tuned model draw the same prompts from the same seeds, and are judged.

    Writes `report.json` (fractions, never percent), `report.html`, `before_after.png` and all pictures under
    `evaluation/`. The first scorer's win rate of the tuned over the base model stands at the top of the report.

    Args:
        prompts: what is drawn; prompts that were not trained on.
        scorers: who judges. That a scorer labelled the training pairs is told: it must not judge.
        sampling: how it is drawn.
        base_pictures: folder that keeps the base's pictures, so that other runs on the same base, prompts and sampling
            need not draw them again; null draws them in each run.
        frechet: also measure how far the pictures of each, as a set, lie from others.
        away: judge the base whose guidance leads away from what was tuned (arXiv:2505.11245), in place of what was
            tuned itself: for networks that learn what people dislike.

    Raises:
        Refusal: if there are no prompts, a scorer cannot judge them or be loaded, or `frechet` cannot be measured.
    """

    prompts: Prompts
    scorers: list[Scorer]
    sampling: Sampling = field(default_factory=Sampling)
    base_pictures: Path | None = None
    frechet: FrechetDistance | None = None
    away: bool = False

    def __post_init__(self):
        judges, asked = Judges(self.scorers), self.asked()
        for scorer in judges.scorers:
            scorer.on("cpu").check(asked)  # what is loaded goes with the copy: nothing is held while training
        if self.frechet:
            self.frechet.check(len(asked) * self.sampling.pictures)

    def asked(self) -> list[str]:
        return [record["prompt"] for record in self.prompts.read()]

    def __call__(self, pipelines: dict[str, Any], output_dir: Path, seed: int) -> None:
        began, state, top = time.perf_counter(), PartialState(), output_dir / "evaluation"
        if state.is_main_process and top.exists():
            shutil.rmtree(top)
        state.wait_for_everyone()
        asked, source = self.asked(), {name: name for name in pipelines}
        if self.away:
            base, tuned = pipelines["base"], pipelines["tuned"]
            pipelines = {"base": base, "tuned": lead_away(base, tuned.components[family_of(tuned).part])}
            source["tuned"] = "base, led away from what was tuned"

        def drawn(name: str, pipeline: Any) -> ModelPictures:
            if name == "base" and self.base_pictures:
                files = draw_or_copy(self.base_pictures, pipeline, asked, self.sampling, top / name, name)
            else:
                files = draw_pictures(lambda: pipeline, asked, self.sampling, top / name, {}, name)
            return ModelPictures(files, top / name, {})

        pictures = {name: drawn(name, pipeline) for name, pipeline in pipelines.items()}
        about = {
            name: {
                "source": source[name],
                "folder": f"evaluation/{name}",
                "listing": f"evaluation/{name}/prompts.jsonl",
                "drawn": True,
                "guidance": self.sampling.guidance,
            }
            for name in pipelines
        }
        found = compare_models(pictures, asked, Judges(self.scorers), self.sampling, about, self.frechet)
        report: PictureReport = {"seed": seed, "seconds": round(time.perf_counter() - began, 1), **found}
        report["warnings"] += [*list_warnings({"tuned": [str(output_dir)]}, self.scorers), *cut_short(report)]
        report["guidance_sweep"] = None
        if state.is_main_process:
            write_report({**report, **headline(report)}, output_dir)
            write_sheet(before_after(pictures, self.sampling.pictures), output_dir / "before_after.png")
            write_page(output_dir)
            print("\n".join([format_table(report), *(f"warning: {warning}" for warning in report["warnings"])]))


def write_report(report: Mapping[str, Any], output_dir: Path) -> None:
    """As a whole or not at all: it tells a grid of runs that one is finished; then its digest beside it.

    Of a run whose result is its best weights, the report says so.
    """
    best = read_best(output_dir)
    write_named(output_dir / REPORT, as_json({**report, "best": best} if best else report))


def write_sheet(sheet: Image.Image, file: Path) -> None:
    """Pictures to look at, with the digest beside them."""
    held = BytesIO()
    sheet.save(held, "PNG")
    write_named(file, held.getvalue())


def headline(report: Report) -> dict[str, float]:
    """The tuned model against the base by the first scorer, at the top of a report that has these two."""
    models, metric = report["models"], next(iter(report["scorers"]))
    if not {"base", "tuned"} <= models.keys():
        return {}
    wanted = {"a": "tuned", "b": "base", "metric": metric}
    pair = next(pair for pair in report["pairs"] if wanted.items() <= pair.items())
    top = {name: pair[name] for name in ("win_rate", "win_rate_low", "win_rate_high")}
    for key in {"attributes", "style"} & models["base"].keys():
        top |= {f"{key}_{name}": models[name][key] for name in ("base", "tuned")}
    return top


def before_after(pictures: Mapping[str, ModelPictures], step: int, columns: int = 12, side: int = 96) -> Image.Image:
    """One row per model, one column per prompt."""
    shown = [made.files[::step][:columns] for made in pictures.values()]
    enlarged = [Image.open(file).resize((side, side), Image.Resampling.NEAREST) for row in shown for file in row]
    return make_image_grid(enlarged, rows=len(shown), cols=len(shown[0]))
