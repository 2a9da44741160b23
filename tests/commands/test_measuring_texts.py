import json
import sys

import pytest
from tiny_text_runs import run_text, text_files

from diffpo.cli.command import launch
from diffpo.commands import ranking_accuracy, semantic_distance
from diffpo.data.layouts import Columns
from diffpo.text.data.pairs import TextData
from diffpo.text.methods.sem_dpo import SemanticWeight


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = text_files(tmp_path_factory.mktemp("ranking"))
    run_text(root, root / "tuned")
    return root


def started(script, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    launch(script.main)


def ranked(world, monkeypatch, *overrides: str) -> dict:
    """What the script finds on the pairs of the run."""
    started(
        ranking_accuracy,
        monkeypatch,
        f"--base.path={world / 'base'}",
        "--data.source=diffpo.data.Columns",
        f"--data.source.path={world / 'pairs.parquet'}",
        "--data.max_length=64",
        f"--output={world / 'accuracies.json'}",
        *overrides,
    )
    return json.loads((world / "accuracies.json").read_text())


def test_training_raises_the_accuracy_of_the_pairs_that_were_trained_on(world, monkeypatch):
    base = ranked(world, monkeypatch, f"--tuned={world / 'base'}")
    tuned = ranked(world, monkeypatch, f"--tuned={world / 'tuned'}", "--betas=[0.1]")
    assert base["pairs"] == tuned["pairs"]
    assert base["ranking"] == base["ranking_reference"] == tuned["ranking_reference"] == 0
    assert base["kept"] is None  # of no pair that the reference ranks right
    assert tuned["ranking"] > 0
    assert {name for name in tuned if "idealized/" in name} == {"ranking_idealized/0.1"}


def test_what_was_not_trained_is_said_in_a_line(world, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        ranked(world, monkeypatch, f"--tuned={world / 'nowhere'}")
    assert "error: " in capsys.readouterr().err


def test_distances_are_added_and_what_to_do_with_them_is_said(world, monkeypatch, capsys):
    output = world / "distances"
    started(
        semantic_distance,
        monkeypatch,
        "--encoder=diffpo.text.CLIPText",
        "--encoder.path=assets/tiny-clip",
        "--source=diffpo.data.Columns",
        f"--source.path={world / 'pairs.parquet'}",
        f"--output_dir={output}",
    )
    assert f"--data.source.path={output}/train.parquet" in capsys.readouterr().out
    data = TextData(Columns(f"{output}/train.parquet"), [SemanticWeight()], max_length=64, together=2, workers=0)
    run_text(world, world / "weighted", data=data)
