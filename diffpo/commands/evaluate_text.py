"""Compare any number of models that write, or tables of their answers, by any scorers and judges.

accelerate launch -m diffpo evaluate-text --config configs/evaluate/tiny_text.yaml --output_dir runs/evaluation-text
"""

import time
from pathlib import Path

import transformers

from diffpo.core.refusal import Refusal
from diffpo.evaluation.prompts import Prompts
from diffpo.evaluation.report import TextReport
from diffpo.evaluation.scorer import TextScorer
from diffpo.processes.everyone import on_main
from diffpo.rounds.roles import Judge
from diffpo.storage.digests import REPORT
from diffpo.storage.files import CONFIG, name_failed_writes
from diffpo.storage.job_folder import join_processes
from diffpo.storage.ledger import REMEDY, as_json, write_named
from diffpo.storage.lock import take_lock
from diffpo.text.evaluation.compared import ComparedText
from diffpo.text.evaluation.comparison import (
    TextJudges,
    compare_texts,
    format_comparison,
    summarize_texts,
    write_answers,
)
from diffpo.text.evaluation.page import write_text_page
from diffpo.text.model.sampling import TextSampler


def main(
    models: list[ComparedText],
    prompts: Prompts,
    output_dir: Path,
    sampler: TextSampler,
    scorers: list[TextScorer] | None = None,
    judges: dict[str, Judge] | None = None,
    answers: int = 1,
    seed: int = 0,
    settings: str = "",
) -> None:
    """Compare any number of models that write, or tables of their answers, by any scorers and judges.

    Args:
        models: what is compared; win rates are over the first one in the terminal, of all pairs in the report.
        prompts: what they answer.
        output_dir: gets `report.json`, `report.html` and one folder of answers per model. The same command again goes
            on where a stopped one was.
        sampler: how they answer; all have the same draws.
        scorers: who rates answers, e.g. diffpo.text.PretrainedReward; null is nobody.
        judges: who compares two answers, by the name that the report gives them, e.g. diffpo.rounds.BothOrders of
            diffpo.rounds.Asked; null is nobody.
        answers: to each prompt.
        seed: of the draws.
        settings: the resolved config.
    """
    transformers.utils.logging.disable_progress_bar()
    state, began = join_processes(), time.perf_counter()
    if answers < 1:
        raise Refusal(f"answers must be at least 1, got {answers}.")
    asking = TextJudges(scorers or [], judges or {})
    require_distinct_names(models)
    lock = on_main(lambda: take_lock(output_dir, "evaluation"))
    asked = [record["prompt"] for record in prompts.read()]
    on_main(lambda: [model.check() for model in models])
    on_main(lambda: [scorer.check(asked) for scorer in asking.scorers])
    with name_failed_writes(f"output_dir {output_dir}", REMEDY):
        if state.is_main_process:
            (output_dir / CONFIG).write_text(settings)
    said = {
        model.name: model.answer(sampler, asked, answers, seed, output_dir / model.name / "sampled")
        for model in models
    }
    numbers, pairs = compare_texts(said, asked, asking, output_dir)
    if state.is_main_process:
        sources = {model.name: model.source for model in models}
        found = summarize_texts(said, sources, numbers, pairs, asking, sampler.temperature)
        report: TextReport = {"seed": seed, "seconds": round(time.perf_counter() - began, 1), **found}
        for name, of in said.items():
            write_answers(of, asked, numbers[name], output_dir / name)
        write_named(output_dir / REPORT, as_json(report))
        print("\n".join([format_comparison(report), *(f"warning: {warning}" for warning in report["warnings"])]))
        print(f"{write_text_page(output_dir)} shows the answers.")
    if lock:
        lock.release()
    state.end_training()


def require_distinct_names(models: list[ComparedText]) -> None:
    names = [model.name.casefold() for model in models]
    if not names or len({*names}) < len(names):
        raise Refusal(f"models needs one or more of different names, got {[model.name for model in models]}.")
