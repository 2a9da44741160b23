"""Compare any number of text-to-image models, or folders of their pictures, by any scorers.

accelerate launch scripts/evaluate.py --config configs/evaluate/tiny.yaml --output_dir runs/evaluation
"""

import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import diffusers
import transformers

from diffpo.diffusion.evaluation.compare import compare_models, headline, write_report
from diffpo.diffusion.evaluation.drawing import DRAWN, Sampling, draw_pictures
from diffpo.diffusion.evaluation.fidelity import FrechetDistance
from diffpo.diffusion.evaluation.geneval import write_geneval
from diffpo.diffusion.evaluation.guidance import GuidanceSweep
from diffpo.diffusion.evaluation.model import ComparedModel, list_warnings, require_distinct, stamp_files
from diffpo.diffusion.evaluation.page import write_page
from diffpo.diffusion.evaluation.scores import Judges, ModelPictures
from diffpo.evaluation.prompts import Prompts
from diffpo.evaluation.report import PictureReport
from diffpo.evaluation.scorer import Scorer
from diffpo.evaluation.win_rates import cut_short, format_table
from diffpo.processes.everyone import on_main
from diffpo.storage.files import name_failed_writes
from diffpo.storage.job_folder import join_processes
from diffpo.storage.ledger import REMEDY
from diffpo.storage.lock import take_lock
from diffpo.train.state.checkpoint import CONFIG


def main(
    models: list[ComparedModel],
    prompts: Prompts,
    scorers: list[Scorer],
    output_dir: Path,
    sampling: Sampling,
    sweep: GuidanceSweep | None = None,
    frechet: FrechetDistance | None = None,
    geneval: bool = False,
    settings: str = "",
) -> None:
    """Compare any number of text-to-image models, or folders of their pictures, by any scorers.

    Args:
        models: what is compared; win rates are over the first one in the terminal, of all pairs in the report.
        prompts: what they draw.
        scorers: who judges.
        output_dir: gets `report.json`, `report.html` and one folder of pictures per model. The same command again goes
            on where a stopped one was.
        sampling: how they draw.
        sweep: choose each model's guidance scale on other prompts; null takes sampling.guidance for all.
        frechet: also measure how far the pictures of each model, as a set, lie from others.
        geneval: also write the pictures in the folder layout of GenEval.
        settings: the resolved config.
    """
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    state = join_processes()
    lock = on_main(lambda: take_lock(output_dir, "evaluation"))
    began, judges = time.perf_counter(), Judges(scorers)
    require_distinct(models, output_dir)
    records = prompts.read()
    asked = [record["prompt"] for record in records]
    on_main(lambda: [model.require_reachable() for model in models if not (output_dir / model.name / DRAWN).exists()])
    development = sweep.asked(asked, judges) if sweep else []
    finished = {model.name: model.files(asked, sampling.pictures) for model in models if model.pictures}
    for scorer in scorers:
        scorer.check([*asked, *development])
    if frechet:
        frechet.check(len(asked) * sampling.pictures)
    with name_failed_writes(f"output_dir {output_dir}", REMEDY):
        if state.is_main_process:
            (output_dir / CONFIG).write_text(settings)
    pictures, about, curves = {}, {}, {}
    for model in models:
        folder, drawn, at, load = output_dir / model.name, not model.pictures, sampling, cache(model.load)
        if sweep and drawn:
            curves[model.name] = sweep(model, load, development, judges, sampling, output_dir / "guidance")
            at = replace(sampling, guidance=sweep.best(curves[model.name]))
        if drawn:
            files, identity = draw_pictures(load, asked, at, folder, model.identity, model.name), model.identity
        else:
            files = finished[model.name]
            identity = {**model.identity, "files": stamp_files(files)}
        pictures[model.name] = ModelPictures(files, folder, identity)
        about[model.name] = {
            "source": model.source,
            "folder": model.name if drawn else str(files[0].parent.resolve()),
            "listing": f"{model.name}/prompts.jsonl",
            "drawn": drawn,
            "guidance": at.guidance if drawn else None,
        }
        if geneval and state.is_main_process:
            write_geneval(files, records, output_dir / "geneval" / model.name)
    found = compare_models(pictures, asked, judges, sampling, about, frechet)
    if state.is_main_process:
        listed = list_warnings({model.name: model.runs for model in models}, scorers)
        seconds = round(time.perf_counter() - began, 1)
        report: PictureReport = {"seed": sampling.first_seed, "seconds": seconds, **found}
        report["warnings"] += [*listed, *cut_short(report)]
        report["guidance_sweep"] = sweep.report(curves, development, judges) if sweep else None
        write_report({**report, **headline(report)}, output_dir)
        print("\n".join([format_table(report), *(f"warning: {warning}" for warning in report["warnings"])]))
        print(f"{write_page(output_dir)} shows the pictures.")
    if lock:
        lock.release()
    state.end_training()
