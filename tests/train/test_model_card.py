import json

import pytest

from diffpo.train.model_card import find_paths, last_metrics, license_note, write_verdicts


def test_the_last_value_of_each_metric_is_shown_without_those_by_quarter(tmp_path):
    lines = [{"step": 1, "loss": 0.7, "mse/t0-249": 1.0}, {"step": 2, "loss": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert last_metrics(tmp_path).splitlines() == [
        "| last of `metrics.jsonl` | step 2 |",
        "|---|---|",
        "| loss | 0.5 |",
    ]


def test_a_folder_without_files_says_nothing(tmp_path):
    assert last_metrics(tmp_path) == write_verdicts(tmp_path) == ""


def test_paths_are_found_in_mixtures_too():
    assert find_paths({"path": "a", "sources": [{"path": "b", "split": "c"}]}) == ["a", "b"]


def test_a_license_that_is_known_is_named():
    assert "openrail++" in license_note("stabilityai/stable-diffusion-xl-base-1.0")
    assert "whose license applies" in license_note("someone/base")


@pytest.mark.parametrize("line", ["", '{"step": 3, "lo', "[1]", '{"loss": 4}', "\x00\x00"])
def test_a_damaged_line_of_metrics_is_left_out_and_told(tmp_path, line, caplog):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "loss": 2.0}}\n{line}\n{{"step": 4, "loss": 0.5}}\n')
    assert "step 4" in last_metrics(tmp_path)
    assert "Line 2 of" in caplog.text


def test_metrics_of_which_nothing_is_left_are_none(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{")
    assert last_metrics(tmp_path) == ""
