import json
from pathlib import Path

import numpy as np
import pytest

from diffpo.core.refusal import Refusal
from diffpo.lab.evidence.users import curve, format_group, pooled
from diffpo.storage.ledger import write_named


def evaluated(folder: Path, gain: float, seed: int) -> Path:
    """What the script writes of a base, and of a model whose pictures are worth so much more to each of two users."""
    folder.mkdir()
    base = np.random.default_rng(seed).random((2, 3, 1))
    worth = {"base": base, "dpo": base, "ppd-4": base + gain}
    models = {row: {"attributes": 0.5 + seed / 10} for row in worth}
    between = {"users": ["ann", "bob"], "weights": [0.0, 1.0], "utility": {"ann": [1.0 + seed, 0], "bob": [0, 2.0]}}
    (folder / "report.json").write_text(json.dumps({"models": models, "between": between}))
    (folder / "utilities.json").write_text(json.dumps({row: found.tolist() for row, found in worth.items()}))
    return folder


@pytest.mark.parametrize("name", ["report.json", "utilities.json"])
def test_numbers_that_are_not_those_that_were_written_are_refused(tmp_path, name):
    folders = [evaluated(tmp_path / str(seed), 0.25, seed) for seed in range(2)]
    write_named(folders[0] / name, (folders[0] / name).read_bytes())
    assert pooled(folders)
    (folders[0] / name).write_bytes((folders[1] / name).read_bytes())
    with pytest.raises(Refusal, match=rf"0/{name} is damaged \(it is not what was written\); copy it again"):
        pooled(folders)


@pytest.fixture
def found(tmp_path):
    return pooled([evaluated(tmp_path / "0", 0.25, 0), evaluated(tmp_path / "1", -0.25, 1)])


def test_pictures_of_all_training_runs_count_alike(found):
    ours = found["rows"]["ppd-4"]
    assert (ours["over_base"]["rate"], ours["over_dpo"]["rate"]) == (0.5, 0.5)
    assert ours["over_base_by_seed"] == [1.0, 0.0]
    assert ours["attributes"] == pytest.approx(0.55)
    assert ours["utility"] == pytest.approx(found["rows"]["base"]["utility"])
    assert (found["users"], found["prompts"], found["pictures"]) == (2, 3, 1)


def test_a_model_that_changes_nothing_ties(found):
    assert found["rows"]["dpo"]["over_base"] == {"rate": 0.5, "low": 0.5, "high": 0.5}


def test_a_row_is_compared_with_those_before_it(found):
    assert [set(row) & {"over_base", "over_dpo"} for row in found["rows"].values()] == [
        set(),
        {"over_base"},
        {"over_base", "over_dpo"},
    ]
    head, _, base, dpo, ours = format_group("held-out users", found).splitlines()
    assert (
        head
        == "| held-out users | win rate over base | win rate over dpo | over base, by seed | utility | attributes |"
    )
    assert base.startswith("| base |  |  |  |")
    assert dpo.split(" | ")[1:4] == ["50.0 % [50.0, 50.0]", "", "50.0, 50.0"]
    assert "| 100.0, 0.0 |" in ours


def test_the_curve_is_the_mean_over_training_runs(found):
    assert curve(found).splitlines()[2:] == [
        "| utility for ann | 1.500 | 0.000 |",
        "| utility for bob | 0.000 | 2.000 |",
    ]
