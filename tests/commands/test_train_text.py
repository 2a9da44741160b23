import json
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tiny_parts import PART, LouderTexts
from tiny_runs import together
from tiny_text_runs import run_text, text_files, train_shared, train_text

from diffpo.cli.command import launch
from diffpo.commands import train_text as train_text_dpo
from diffpo.core.references import Ema
from diffpo.core.refusal import Refusal
from diffpo.data.layouts import Columns
from diffpo.data.row_maps import Smooth
from diffpo.diffusion.evaluation.compare import write_report
from diffpo.evaluation.win_rates import Evaluation
from diffpo.losses.combined import Confidence
from diffpo.losses.logistic import Sigmoid
from diffpo.text.data.layouts import ListOf, Lists
from diffpo.text.data.pairs import HeldOutTexts, TextData
from diffpo.text.methods.sft import SFT
from diffpo.text.methods.tpo_tree import TPO
from diffpo.text.model.loading import CausalLM, LoadedCausalLM
from diffpo.text.model.lora import TextLoRA
from diffpo.text.objective.preference import SequencePreference
from diffpo.train.state.best import KeepBest


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return text_files(tmp_path_factory.mktemp("texts"))


def logged(folder, name) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


class Both(Evaluation):
    def __init__(self):
        self.seen = {}

    def __call__(self, pipelines, output_dir, seed):
        self.seen = pipelines


def test_a_run_begins_at_log_two_and_ends_with_weights_card_and_evaluation(world, tmp_path):
    both = Both()
    train_text(world, tmp_path / "out", validation=HeldOutTexts(share=0.4, every=2, pairs=4), evaluation=both)
    assert logged(tmp_path / "out", "loss")[0] == pytest.approx(0.6931472, abs=1e-6)
    assert len(logged(tmp_path / "out", "validation/loss")) == 2
    assert (tmp_path / "out" / "README.md").exists()
    assert list(both.seen) == ["base", "tuned"]
    assert all(isinstance(model, LoadedCausalLM) for model in both.seen.values())


def test_the_best_weights_are_exported_and_card_and_report_say_so(world, tmp_path):
    """The loss falls on six steps, so its highest value is the first judgement."""

    class Reporting(Evaluation):
        def __call__(self, pipelines, output_dir, seed):
            write_report({"seed": seed, "pairs": [], "models": {"tuned": {}}}, output_dir)

    keep = HeldOutTexts(share=0.4, every=2, pairs=4, keep_best=KeepBest("loss", "higher"))
    settings = {"save_every": 1, "keep": 9}
    kept = train_text(world, tmp_path / "kept", **settings, validation=keep, evaluation=Reporting())
    plain = train_text(world, tmp_path / "plain", **settings, steps=2)
    best = json.loads((tmp_path / "kept" / "best.json").read_text())
    assert best["step"] == 2
    assert best["value"] == max(logged(tmp_path / "kept", "validation/loss"))
    assert not torch.equal(kept, plain)
    assert json.loads((tmp_path / "kept" / "report.json").read_text())["best"] == best
    assert (
        "The weights are those of step 2, where validation/loss was" in (tmp_path / "kept" / "README.md").read_text()
    )


def test_killed_and_resumed_a_run_ends_with_the_bits_of_one_that_was_not(world, tmp_path, monkeypatch):
    whole = train_text(world, tmp_path / "whole", save_every=1, keep=9)
    prepare, calls = LoadedCausalLM.prepare, []

    def dying(*args):
        calls.append(None)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return prepare(*args)

    monkeypatch.setattr(LoadedCausalLM, "prepare", dying)
    with pytest.raises(KeyboardInterrupt):
        train_text(world, tmp_path / "killed", save_every=1, keep=9)
    assert torch.equal(train_text(world, tmp_path / "killed", save_every=1, keep=9, resume="latest"), whole)


def test_remembered_log_likelihoods_give_the_run_that_asks_the_reference(world, tmp_path):
    lora = CausalLM(str(world / "base"), adapter=TextLoRA(rank=2))
    asked = train_text(world, tmp_path / "asked", base=lora)
    for run in ("first", "second"):
        found = train_text(world, tmp_path / run, base=lora, reference_cache=tmp_path / "memory")
        assert torch.allclose(found, asked, atol=1e-6)


def test_two_processes_give_the_run_of_one(world):
    one = train_text(world, world / "one")
    assert together(2, train_shared, world) == [0, 0]
    two = load_file(world / "two" / "model.safetensors")
    assert torch.allclose(torch.cat([two[name].flatten() for name in sorted(two)]), one, atol=1e-6)


def test_a_part_that_an_objective_brings_may_stand_beside_a_moving_reference(world, tmp_path):
    train_text(world, tmp_path / "run", objective=LouderTexts(), reference=partial(Ema, decay=0.5), save_every=4)
    stored = load_file(tmp_path / "run" / "checkpoint-000004" / "trainable.safetensors")
    assert float(stored[f"{PART}.weight"]) != 1.0
    assert not any(PART in name for name in load_file(tmp_path / "run" / "model.safetensors"))


def test_sft_raises_the_likelihood_of_what_was_chosen(world, tmp_path):
    train_text(world, tmp_path / "sft", objective=SFT(), steps=8)
    first, *_, last = logged(tmp_path / "sft", "nll/chosen")
    assert last < first - 0.5


def test_a_wrong_column_is_one_line_on_the_command_line(world, tmp_path, monkeypatch, capsys):
    given = {
        "config": "configs/text/dpo.yaml",
        "base.path": world / "base",
        "data.source": "diffpo.data.Columns",
        "data.source.path": world / "pairs.parquet",
        "data.source.chosen": "better",
        "validation": "null",
        "fit.mixed_precision": "no",
        "fit.report_to": "[]",
        "output_dir": tmp_path / "out",
    }
    monkeypatch.setattr(sys, "argv", ["train_text_dpo.py", *(f"--{name}={value}" for name, value in given.items())])
    with pytest.raises(SystemExit):
        launch(train_text_dpo.main)
    assert "Columns needs columns 'better', the table has 'prompt', 'chosen', 'rejected'" in capsys.readouterr().err


def test_lists_given_to_a_loss_of_pairs_are_one_line(world, tmp_path):
    lists = [{"prompt": "is", "responses": list("abcd"), "scores": [0.1, 0.4, 0.2, 0.3]}] * 8
    Dataset.from_list(lists).to_parquet(str(tmp_path / "lists.parquet"))
    data = TextData(Lists(str(tmp_path / "lists.parquet")), max_length=64, workers=0)
    with pytest.raises(Refusal, match="SequencePreference takes 2 candidates per row, rows have 4; choose another"):
        run_text(world, tmp_path / "dpo", data=data)
    run_text(world, tmp_path / "tpo", data=data, objective=TPO(), steps=1)
    run_text(world, tmp_path / "sft", data=data, objective=SFT(), steps=1)
    run_text(world, tmp_path / "two", data=replace(data, rows=[ListOf(2)]), steps=1)
    assert logged(tmp_path / "two", "loss")[0] == pytest.approx(0.6931472, abs=1e-6)


def test_held_out_pairs_have_to_suit_the_objective_too(world, tmp_path):
    sure = HeldOutTexts(source=Columns(str(world / "pairs.parquet")), every=2, pairs=4)
    data = TextData(Columns(str(world / "pairs.parquet")), rows=[Smooth(0.1)], max_length=64, together=2, workers=0)
    unsure = SequencePreference(Confidence(Sigmoid(), gamma=1.0))
    run_text(world, tmp_path / "smooth", data=data, objective=unsure, validation=sure, steps=1)
    with pytest.raises(Refusal, match="Confidence needs labels that are uncertain, and no row has one: gamma 1 would"):
        run_text(world, tmp_path / "hard", objective=unsure, validation=sure)
