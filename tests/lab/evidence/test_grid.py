from pathlib import Path

import pytest
import yaml

from diffpo.core.refusal import Refusal
from diffpo.lab.evidence.grid import Grid, Tune, read_grid

CONFIGS = sorted(Path("configs/evidence").glob("*.yaml"))
PLAIN = {"config": "a.yaml", "methods": {"sft": ["--a=1"]}, "seeds": [0], "baseline": "sft"}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_record_keeps_a_grid_as_it_was_written(config):
    assert read_grid(config).said() == yaml.safe_load(config.read_text())


def test_what_is_tried_keeps_its_type(tmp_path):
    tune = {"seed": 7, "values": {"sft": {"lr": [1, 0.5, "1e-5"]}}}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(PLAIN | {"tune": tune}))
    tried = read_grid(tmp_path / "grid.yaml").tune
    assert tried == Tune(7, {"sft": {"lr": [1, 0.5, "1e-5"]}})
    assert tried is not None
    assert [type(value) for value in tried.values["sft"]["lr"]] == [int, float, str]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"metods": {"sft": []}}, "'metods.sft'"),
        ({"seeds": "x"}, "grid.seeds"),
        ({"tune": {"sed": 1, "values": {}}}, "'sed'"),
        ({"tune": {"values": {}}}, "required: tune.seed"),
        ({"compare": {"config": "c.yaml"}}, "required: compare.models"),
        ({"users": {"config": "u.yaml", "groups": {"all": {"models": {}, "overides": []}}}}, "'overides'"),
    ],
)
def test_a_misspelt_or_missing_key_is_told_in_a_line(tmp_path, wrong, told):
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(PLAIN | wrong))
    with pytest.raises(Refusal, match=rf"grid.yaml is no grid \(.*{told}.*\); correct it") as caught:
        read_grid(tmp_path / "grid.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "3", "[", "\x00", "[a, b]"])
def test_what_is_no_grid_at_all_is_told_in_a_line(tmp_path, content):
    (tmp_path / "grid.yaml").write_text(content)
    with pytest.raises(Refusal, match="grid.yaml is no grid"):
        read_grid(tmp_path / "grid.yaml")


def test_pairs_are_read_from_what_was_made_last():
    assert Grid("a.yaml", {}, [], "").reads == []
    assert "--data.source.path={output}/scored" in Grid("a.yaml", {}, [], "", score="s.yaml").reads
    assert "--data.source.path={output}/encoded" in Grid("a.yaml", {}, [], "", score="s.yaml", encode="e.yaml").reads
