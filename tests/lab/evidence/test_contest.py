import json
from pathlib import Path

import pytest
import yaml

from diffpo.core.refusal import Refusal
from diffpo.lab.evidence.contest import Contest
from diffpo.lab.evidence.grid import Compare, Grid
from diffpo.lab.evidence.programs import programs
from diffpo.lab.evidence.records import Runs
from diffpo.lab.evidence.tables import contested

MODELS = {
    "base": {"base": "b"},
    "sft": {"base": "b", "unet": "{output}/sft-{seed}"},
    "base_npo": {"base": "b", "negative": "{output}/npo-{seed}"},
}
PLAN = Grid("none.yaml", {"sft": [], "npo": []}, [0, 1], "sft", rival="sft")
UNKNOWN = {"common": {}, "rows": {}}


def opened(runs: Runs, models=MODELS) -> Contest:
    compare = Compare("configs/evaluate/negative_tiny.yaml", models)
    return Contest.of(PLAN, compare, UNKNOWN, runs)


@pytest.fixture
def drawn(monkeypatch) -> list[list[dict]]:
    """Evaluations that were started, as lists of models; each model's one picture is worth its place in the list."""
    seen = []

    def run(command, **_):
        folder = Path(next(word for word in command if word.startswith("--output_dir=")).partition("=")[2])
        models = yaml.safe_load(folder.with_suffix(".yaml").read_text())["models"]
        seen.append(models)
        for worth, model in enumerate(models):
            (folder / model["name"]).mkdir(parents=True)
            listing = folder / model["name"] / "prompts.jsonl"
            listing.write_text(json.dumps({"scores": {"oracle": worth}}))
        entries = {model["name"]: {"attributes": 1.0, "guidance": 2.0 + n} for n, model in enumerate(models)}
        report = {"n_prompts": 1, "models": entries, "versions": {}, "guidance_sweep": {"a": 1}}
        (folder / "report.json").write_text(json.dumps(report))

    monkeypatch.setattr(programs, "run", run)
    return seen


def test_a_mixture_with_a_negative_network_of_each_seed_is_a_row_with_its_own_guidance(tmp_path, drawn):
    runs = Runs(tmp_path)
    opened(runs).hold(jobs=1)
    assert [model["name"] for model in drawn[0]] == ["base", "sft-0", "sft-1", "base_npo-0", "base_npo-1"]
    assert drawn[0][-1] == {"name": "base_npo-1", "base": "b", "negative": f"{tmp_path}/npo-1"}


def test_the_second_table_goes_on_from_its_record(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr("diffpo.lab.evidence.tables.ASPECTS", {"attributes": "{:.1%}"})
    runs, compare = Runs(tmp_path / "out", tmp_path / "records"), Compare("c.yaml", MODELS)
    runs.folder.mkdir()
    first = opened(runs)
    assert not first.is_recorded
    first.hold(jobs=1)
    found = contested(PLAN, compare, runs)
    assert found["rows"]["base_npo"]["guidance"] == [5.0, 6.0]
    assert found["rows"]["base_npo"]["over_rival"]["rate"] == 1.0
    assert "over_rival" not in found["rows"]["sft"]

    elsewhere = Runs(tmp_path / "none", runs.records)
    again = opened(elsewhere)
    assert again.is_recorded
    again.hold(jobs=1)
    assert len(drawn) == 1
    assert contested(PLAN, compare, elsewhere) == found
    with pytest.raises(Refusal, match=r"contest.json is of a run with another models.sft.unet than"):
        opened(elsewhere, MODELS | {"sft": {"base": "b", "unet": "other"}})
