"""Models side by side on the tiny language world: the same prompts and draws, the oracle of rewrites, one report."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from jaxtyping import Float

from diffpo.core.refusal import Refusal
from diffpo.diffusion.evaluation.compare import before_after, headline, write_report, write_sheet
from diffpo.diffusion.evaluation.listing import LISTING
from diffpo.diffusion.evaluation.scores import ModelPictures
from diffpo.evaluation.prompts import Prompts
from diffpo.evaluation.report import Report, RewriteReport
from diffpo.evaluation.win_rates import (
    Evaluation,
    Numbers,
    compare_pairs,
    format_report,
    format_table,
    list_versions,
    summarize_pictures,
)
from diffpo.lab.rewrites.drawing import Drawing
from diffpo.lab.rewrites.oracle import RewriteOracle
from diffpo.lab.rewrites.page import write_page
from diffpo.lab.rewrites.shift import estimate_shift
from diffpo.lab.rewrites.turns import answered
from diffpo.lab.rewrites.writing import Writing
from diffpo.scorers.clip_score import CLIPScore
from diffpo.scorers.dual import CLIP
from diffpo.storage.files import require_name
from diffpo.storage.ledger import write_named
from diffpo.text.model.loading import CausalLM, LoadedCausalLM, load_base


@dataclass(frozen=True)
class Rewriting(Evaluation):
    """At the end of a run: base and tuned model rewrite the same prompts from the same draws, and are judged.

    Writes `report.json` (fractions, never percent), `report.html` to look at, and `evaluation/<model>/prompts.jsonl`
    with every rewrite and what was measured: the oracle's utility, `attributes` kept, `style` and `clean`
    (`RewriteOracle`), `length` in tokens, and `drift`, the semantic distance from the prompt (1 - cosine in the space
    of a CLIP, as in arXiv:2507.20133). `diversity` is the mean Jaccard distance of the words of two rewrites of one
    prompt; `shift` is the mean of log p - log p of the first model over a model's own rewrites (of single turns, of
    one vocabulary), which estimates KL from it at temperature 1. With `drawing`, `pictured` is the share of the
    attributes asked for that the picture of a rewrite shows.

    Args:
        prompts: what is rewritten; prompts that were not trained on.
        writing: how rewrites are sampled.
        beside: folders of other finished runs, of all weights, by the name that the report gives them, e.g.
            {sft: runs/text-sft}.
        embedder: CLIP whose text tower measures drift.
        drawing: draws some rewrites; null draws none.
        turns: prompts in a row that are asked in one conversation, in which the model reads what it has said before.

    Raises:
        Refusal: if there are no prompts, the oracle cannot judge them, a model beside is not there, or `turns` is
            below 1.
    """

    prompts: Prompts
    writing: Writing = field(default_factory=Writing)
    beside: dict[str, str] = field(default_factory=dict)
    embedder: str = "assets/tiny-clip"
    drawing: Drawing | None = None
    turns: int = 1

    def __post_init__(self):
        if self.turns < 1:
            raise Refusal(f"Rewriting needs at least one turn, got {self.turns}.")
        RewriteOracle().check(self.asked())
        for name in self.beside:
            require_name(name, "a model beside", taken=("base", "tuned"))
        for path in self.beside.values():
            CausalLM(path).tokenizing()  # or a folder that is not there would be found out after training

    def asked(self) -> list[str]:
        return [record["prompt"] for record in self.prompts.read()]

    def __call__(self, pipelines: dict[str, Any], output_dir: Path, seed: int) -> None:
        if PartialState().is_main_process:
            began, asked = time.perf_counter(), self.asked()
            models = self.list_models(pipelines, output_dir)
            shutil.rmtree(output_dir / "evaluation", ignore_errors=True)
            found = self.contest(models, asked, output_dir)
            report: RewriteReport = {"seed": seed, "seconds": round(time.perf_counter() - began, 1), **found}
            write_report({**report, **headline(report)}, output_dir)
            write_page(output_dir)
            print("\n".join([format_table(report), *list_rates(report)]))
        PartialState().wait_for_everyone()

    def list_models(self, pipelines: Mapping[str, Any], output_dir: Path) -> dict[str, LoadedCausalLM]:
        """All models that are compared, by the names that the report gives them, the base first."""
        base, *others = pipelines.items()
        beside = [(name, load_base(CausalLM(path))) for name, path in self.beside.items()]
        return dict([base, *beside, *others])

    def describe(self, written: Sequence[Sequence[str]]) -> dict[str, float]:
        """Further numbers of a model, of the rewrites of each prompt."""
        return {}

    def contest(self, models: Mapping[str, LoadedCausalLM], asked: Sequence[str], output_dir: Path) -> RewriteReport:
        """Let all models write, measure, list what was written, and sum up."""
        scorer, clip = RewriteOracle(), CLIPScore(self.embedder)
        numbers: dict[str, Numbers] = {}
        entries: dict[str, Any] = {}
        drawn: dict[str, ModelPictures] = {}
        base = next(iter(models.values()))
        for name, model in models.items():
            folder = output_dir / "evaluation" / name
            folder.mkdir(parents=True)
            tokenizer = model.tokenizing.tokenizer
            written = answered(model.network, tokenizer, asked, self.writing, self.turns, name)
            numbers[name] = self.measured(written, tokenizer, asked, clip, folder)
            files = sorted(folder.glob("*.png"))
            if files:
                drawn[name] = ModelPictures(files, folder, {})
            list_rewrites(written, asked, numbers[name], files, folder)
            entries[name] = {
                "source": self.beside.get(name, name),
                "folder": f"evaluation/{name}",
                "listing": f"evaluation/{name}/prompts.jsonl",
                **summarize_pictures(numbers[name], [scorer.name]),
                "diversity": diversity(written),
                **self.describe(written),
            }
            if self.turns == 1 and tokenizer.get_vocab() == base.tokenizing.tokenizer.get_vocab():
                entries[name]["shift"] = estimate_shift(model, base, asked, written)
        if drawn:
            write_sheet(before_after(drawn, 1), output_dir / "before_after.png")
        return {
            "n_prompts": len(asked),
            "rewrites": self.writing.rewrites,
            "turns": self.turns,
            "temperature": self.writing.temperature,
            "versions": list_versions(),
            "scorers": {scorer.name: scorer.identity},
            "models": entries,
            "pairs": compare_pairs(numbers, [scorer.name]),
        }

    def measured(
        self, written: list[list[str]], tokenizer: Any, asked: Sequence[str], clip: CLIP, folder: Path
    ) -> Numbers:
        """Everything that is measured of each rewrite: (prompts, rewrites), NaN where it was not."""
        each, scorer = self.writing.rewrites, RewriteOracle()
        prompts = [prompt for prompt in asked for _ in range(each)]
        rewrites = [text for texts in written for text in texts]
        tokens = [float(len(ids)) for ids in tokenizer(rewrites, add_special_tokens=False).input_ids]
        found = {scorer.name: scorer(prompts, rewrites), **scorer.aspects(prompts, rewrites)}
        columns = {name: values.numpy() for name, values in found.items()}
        columns |= {"length": np.array(tokens), "drift": drift(prompts, rewrites, clip)}
        if self.drawing:
            some = slice(self.drawing.prompts)
            pictured = np.full((len(asked), each), np.nan)
            pictured[some, 0] = self.drawing(asked[some], [texts[0] for texts in written[some]], folder)
            columns["pictured"] = pictured
        return {name: values.reshape(len(asked), each) for name, values in columns.items()}


@torch.no_grad()
def drift(prompts: Sequence[str], rewrites: Sequence[str], clip: CLIP) -> Float[np.ndarray, " n"]:
    """1 - cosine of each rewrite and its prompt in the space of a CLIP, in [0, 2]."""
    asked, written = (clip.embed_prompts(list(texts)) for texts in (prompts, rewrites))
    return (1 - (asked * written).sum(-1)).cpu().numpy()


def diversity(written: Sequence[Sequence[str]]) -> float | None:
    """Mean Jaccard distance of the words of two rewrites of one prompt, in [0, 1]; None with one rewrite for each."""
    distances = []
    for texts in written:
        words = [{*text.replace(",", "").split()} for text in texts]
        distances += [1 - len(one & two) / max(len(one | two), 1) for one, two in combinations(words, 2)]
    return float(np.mean(distances)) if distances else None


def list_rewrites(
    written: Sequence[Sequence[str]], asked: Sequence[str], numbers: Numbers, files: Sequence[Path], folder: Path
) -> None:
    """`prompts.jsonl`: one line per rewrite, prompt by prompt."""
    lines = []
    for i, (prompt, texts) in enumerate(zip(asked, written, strict=True)):
        for j, text in enumerate(texts):
            scores = {
                name: None if np.isnan(values[i, j]) else float(values[i, j]) for name, values in numbers.items()
            }
            picture = {"file": files[i].name} if j == 0 and i < len(files) else {}
            lines.append(json.dumps({"prompt": prompt, "rewrite": text, **picture, "scores": scores}))
    write_named(folder / LISTING, ("\n".join(lines) + "\n").encode())


def list_rates(report: Report) -> list[str]:
    """Win rates that the table leaves out: those over another model than the first."""
    first = next(iter(report["models"]))
    return [f"{pair['a']} over {pair['b']}: {format_report(pair)}" for pair in report["pairs"] if pair["b"] != first]
