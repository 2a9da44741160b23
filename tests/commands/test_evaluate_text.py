import json

import pytest
from tiny_text import saved_language_model

from diffpo.cli.command import launch
from diffpo.commands import evaluate_text

SCORER = """
from dataclasses import dataclass
import torch
from diffpo.evaluation import TextScorer

@dataclass(frozen=True)
class Short(TextScorer):
    name = "short"
    model_id = "none"
    version = "1"

    def __call__(self, prompts, candidates):
        return torch.tensor([-float(len(said)) for said in candidates])
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    (tmp_path / "short_scorer.py").write_text(SCORER)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "prompts.txt").write_text("is it\nwhat the\n")
    bases = [saved_language_model(tmp_path / f"base{n}", seed=n) for n in range(2)]
    file = tmp_path / "evaluate.yaml"
    file.write_text(
        f"""
models:
  - {{name: one, base: {bases[0]}}}
  - {{name: two, base: {bases[1]}}}
prompts: {{path: {tmp_path}/prompts.txt}}
scorers: [{{class_path: short_scorer.Short}}]
judges:
  both:
    class_path: diffpo.rounds.FromScorer
    init_args: {{scorer: {{class_path: short_scorer.Short}}, temperature: 2.0}}
sampler: {{max_tokens: 6}}
answers: 2
output_dir: {tmp_path}/out
"""
    )
    return file


def test_models_are_compared_from_a_config_and_again_at_once(config, tmp_path, capsys):
    launch(evaluate_text.main, ["--config", str(config)], "diffpo evaluate-text")
    said = capsys.readouterr().out
    assert "win rate over one" in said
    assert "report.html shows the answers" in said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["n_prompts"], report["answers"], [*report["scorers"]]) == (2, 2, ["short", "both"])
    assert {pair["metric"]: pair["a"] for pair in report["pairs"]} == {"short": "two", "both": "two"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Answers side by side" in page
    assert "Win rates beside lengths" in page
    lines = [json.loads(line) for line in (tmp_path / "out" / "two" / "prompts.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert all(line["scores"]["length"] == len(line["answer"]) == -line["scores"]["short"] for line in lines)
    launch(evaluate_text.main, ["--config", str(config)], "diffpo evaluate-text")
    again = json.loads((tmp_path / "out" / "report.json").read_text())
    assert again | {"seconds": 0} == report | {"seconds": 0}


def test_two_models_of_one_name_are_refused(config, capsys):
    with pytest.raises(SystemExit):
        launch(evaluate_text.main, ["--config", str(config), "--models", "[{name: a, base: b}, {name: A, base: c}]"])
    assert "different names" in capsys.readouterr().err
