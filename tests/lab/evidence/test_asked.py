from diffpo.lab.evidence.asked import ask, expect
from diffpo.lab.evidence.grid import Grid

PLAN = Grid("configs/quickstart.yaml", {"dpo": ["--data.rows.recorded={scores}"]}, [0], "sft", also=["--a={output}/b"])
RESOLVED = {
    "common": {"base": {"path": "assets/tiny-sd"}, "fit": {"steps": 3}, "guard": {"mu": 1}},
    "rows": {"dpo": {"has": {"fit.steps": 5, "data.rows.recorded": "{scores}"}, "lacks": ["guard.mu"]}},
}


def test_what_is_expected_of_a_row_is_the_common_part_but_for_its_difference():
    found = expect(RESOLVED, "dpo", PLAN)
    assert found == {"base.path": "assets/tiny-sd", "fit.steps": 5, "data.rows.recorded": "{output}/scored"}
    assert expect({"common": {}, "rows": {}}, "dpo", PLAN) == {}


def test_a_run_is_known_by_its_overrides_seed_and_files_and_not_by_its_folder():
    asked = ask(PLAN, RESOLVED, "dpo", 3)
    assert asked["overrides"] == ["--a={output}/b", "--data.rows.recorded={scores}"]
    assert asked["seed"] == 3
    assert sorted(asked["files"]) == ["assets/tiny-sd", "configs/quickstart.yaml"]
    assert asked["files"] == ask(PLAN, RESOLVED, "dpo", 4)["files"]
