import json

import numpy as np
import pytest

from diffpo.evidence import candidates, contested, entrants, measured, rates, shown, table

ASPECTS = {"attributes": "{:.1%}", "length": "{:.1f}"}
ENTRY = {"attributes": 0.5, "style": 0.25, "diversity": 0.125, "length": 10.5, "guidance": 2.5}


def listed(folder, scores: list[float]) -> None:
    folder.mkdir(parents=True)
    lines = [json.dumps({"prompt": "a", "scores": {"oracle": score}}) for score in scores]
    (folder / "prompts.jsonl").write_text("\n".join(lines))


def test_rates_are_of_all_seeds_together_and_of_each():
    """Two prompts, one picture, two seeds: 2 wins and 2 ties over the base, 1 loss and 3 ties over the baseline."""
    ours, base, against = (
        [np.array(seed)[:, None] for seed in seeds]
        for seeds in (([1.0, 2.0], [0.0, 1.0]), ([0.0, 1.0], [0.0, 1.0]), ([1.0, 2.0], [0.0, 2.0]))
    )
    found = rates(ours, base, against)
    assert found["over_base"]["rate"] == 0.75
    assert found["over_base_by_seed"] == [1.0, 0.5]
    assert found["over_baseline"]["rate"] == 0.375


def test_a_grid_names_the_columns_that_are_tabulated(tmp_path):
    listed(tmp_path / "sft-0" / "evaluation" / "base", [0.0, 1.0])
    listed(tmp_path / "sft-0" / "evaluation" / "tuned", [1.0, 1.0])
    report = {"n_prompts": 2, "models": {"base": ENTRY, "tuned": ENTRY | {"length": 8.0}}, "versions": {}}
    (tmp_path / "sft-0" / "report.json").write_text(json.dumps(report))
    found = measured({"methods": {"sft": []}, "baseline": "sft", "seeds": [0], "aspects": ASPECTS}, tmp_path)
    head, _, base, sft = table(found, ASPECTS).splitlines()
    assert head.endswith("| win rate over sft | attributes | length |")
    assert base.endswith("|  | 50.0 % | 10.5 |")
    assert sft == "| sft | 75.0 % [50.0, 100.0] | 75.0 |  | 50.0 % | 8.0 |"


def test_the_table_states_what_was_tuned_and_compares_with_a_rival(tmp_path):
    """Two prompts; dpo wins one and ties one against sft, whose rival it is."""
    for name, tuned in (("sft", [1.0, 1.0]), ("dpo", [2.0, 1.0])):
        folder = tmp_path / f"{name}-0"
        listed(folder / "evaluation" / "base", [0.0, 1.0])
        listed(folder / "evaluation" / "tuned", tuned)
        report = {"n_prompts": 2, "models": {"base": ENTRY, "tuned": ENTRY}, "versions": {}}
        (folder / "report.json").write_text(json.dumps(report))
    plan = {"methods": {"sft": [], "dpo": []}, "baseline": "sft", "rival": "dpo", "seeds": [0]}
    aspects = {"utility": "{:.2f}"}
    found = measured(plan | {"aspects": aspects}, tmp_path, {"dpo": ["--objective.loss.beta=0.5"]})
    head, _, base, sft, dpo = table(found, aspects).splitlines()
    overs = "win rate over base | by seed | win rate over sft | win rate over dpo"
    assert head == f"| model | tuned | {overs} | utility |"
    assert base == "| base |  |  |  |  |  | 0.50 |"
    assert sft == "| sft |  | 75.0 % [50.0, 100.0] | 75.0 |  | 25.0 % [0.0, 50.0] | 1.00 |"
    assert dpo == "| dpo | beta 0.5 | 75.0 % [50.0, 100.0] | 75.0 | 75.0 % [50.0, 100.0] |  | 1.50 |"


def test_one_argument_of_a_method_is_tuned():
    assert candidates({"dpo": {"loss.beta": [0.1, 1]}}) == {
        "dpo": {"dpo-0.1": ["--loss.beta=0.1"], "dpo-1": ["--loss.beta=1"]}
    }
    with pytest.raises(SystemExit, match="dpo is tuned by 2 arguments"):
        candidates({"dpo": {"loss.beta": [0.1], "optimizer.lr": [0.1]}})


@pytest.fixture
def plan():
    models = {"base": {"base": "b"}, "sft": {"unet": "{output}/sft-{seed}"}}
    return {"methods": {}, "baseline": "sft", "seeds": [0, 1], "compare": {"models": models}}


def test_a_model_that_names_the_seed_is_another_for_each(plan):
    assert entrants(plan, "base") == ["base", "base"]
    assert entrants(plan, "sft") == ["sft-0", "sft-1"]


def test_a_contest_tells_the_guidance_that_each_seed_chose(plan, tmp_path):
    names = ["base", "sft-0", "sft-1"]
    for name, score in zip(names, (0.0, 1.0, 0.0), strict=True):
        listed(tmp_path / "contest" / name, [score])
    models = {name: ENTRY | {"guidance": 2.5 + i} for i, name in enumerate(names)}
    (tmp_path / "contest" / "report.json").write_text(
        json.dumps({"n_prompts": 1, "models": models, "guidance_sweep": {}})
    )
    found = contested(plan, tmp_path)
    assert found["rows"]["sft"]["guidance"] == [3.5, 4.5]
    assert found["rows"]["sft"]["over_base"]["rate"] == 0.75
    assert "| sft | 3.5, 4.5 | 75.0 %" in table(found, {})


def test_a_rate_is_shown_in_percent_with_its_interval():
    assert shown({"rate": 0.5, "low": 0.25, "high": 0.756}) == "50.0 % [25.0, 75.6]"
