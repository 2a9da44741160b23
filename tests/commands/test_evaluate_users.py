import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny import pipeline, saved, trained

from diffpo.cli.command import parse
from diffpo.commands import evaluate_users
from diffpo.core.refusal import Refusal
from diffpo.data.files.pictures import read_image
from diffpo.diffusion.evaluation import drawing
from diffpo.diffusion.users.branch import UserBranch
from diffpo.lab.users.tastes import judged_pairs, population, split_prompts
from diffpo.storage.digests import digest_of

PROMPTS = ["a red circle", "a circle on the left"]
USERS = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base, a network that hears users on top of it, and held-out users with their pairs."""
    root = tmp_path_factory.mktemp("world")
    saved(root / "base")
    pipe, branch = pipeline(), UserBranch(tokens=3, width=64, rank=4)
    branch.attach(pipe.unet)
    trained(pipe.unet, by=0.5)
    branch.save(pipe, root / "hearing")
    people = population(2, USERS)
    people.write(root / "users.json")
    made = judged_pairs(pipeline(), split_prompts().training, people.held_out, 2, USERS, steps=1)
    made.map(lambda row: {"label_0": 1.0}).to_parquet(root / "held_out.parquet")
    (root / "prompts.txt").write_text("\n".join(PROMPTS))
    return root


def run(world, tmp_path, **changed) -> dict:
    plan = yaml.safe_load(Path("configs/evaluate/tiny_users.yaml").read_text())
    base, hearing = str(world / "base"), str(world / "hearing")
    plan["models"] = [
        {"name": "base", "base": base},
        {"name": "ppd", "base": base, "user_attention": hearing, "shots": [1, 2]},
        {"name": "shuffled", "base": base, "user_attention": hearing, "shots": [2], "shuffled": True},
    ]
    plan["support"]["init_args"]["path"] = str(world / "held_out.parquet")
    plan["sampling"] = {"pictures": 2, "steps": 1, "guidance": 2.0, "batch_size": 4}
    plan |= {"tastes": str(world / "users.json"), "prompts": {"path": str(world / "prompts.txt")}}
    plan["between"] |= {"shots": 2, "weights": [0.0, 0.5, 1.0]}
    plan["sheets"] = {"row": "ppd-2", "prompts": [0, 1]}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan | changed))
    chosen, settings = parse(
        evaluate_users.main, [f"--config={tmp_path / 'plan.yaml'}", f"--output_dir={tmp_path / 'out'}"]
    )
    evaluate_users.main(**chosen, settings=settings)
    return json.loads((tmp_path / "out" / "report.json").read_text())


def test_the_shipped_config_parses():
    evaluated, _ = parse(evaluate_users.main, ["--config=configs/evaluate/tiny_users.yaml", "--output_dir=out"])
    assert [model.name for model in evaluated["models"]] == ["base", "ppd", "shuffled"]


def test_every_model_is_judged_by_every_user_and_the_second_run_draws_nothing(world, tmp_path, capsys, monkeypatch):
    report = run(world, tmp_path)
    assert list(report["models"]) == ["base", "ppd-1", "ppd-2", "shuffled-2"]
    assert (report["n_prompts"], report["pictures"], report["steps"]) == (2, 2, 1)
    assert all(list(entry["users"]) == list(population(2, USERS).held_out) for entry in report["models"].values())
    assert [(pair["a"], pair["b"]) for pair in report["pairs"]][:3] == [
        ("ppd-1", "base"),
        ("ppd-2", "base"),
        ("shuffled-2", "base"),
    ]
    assert {user["win_rate"] for user in report["models"]["base"]["users"].values()} == {0.5}
    assert "win rate over base" in capsys.readouterr().out
    assert [Image.open(tmp_path / "out" / name).size for name in ("users.png", "between.png")] == [
        (96 * (1 + USERS), 96 * 2),
        (96 * 3, 96 * 2),
    ]
    named = json.loads((tmp_path / "out" / "files.json").read_text())["files"]
    assert named.keys() == {"report.json", "utilities.json", "users.png", "between.png"}
    assert all(digest_of(tmp_path / "out" / name) == entry for name, entry in named.items())
    monkeypatch.setattr(drawing, "generate_pictures", lambda *a, **k: pytest.fail("drawn again"))
    again = run(world, tmp_path)
    assert {**again, "seconds": 0} == {**report, "seconds": 0}


def test_mixtures_begin_and_end_with_what_is_drawn_for_the_two_users(world, tmp_path):
    report = run(world, tmp_path)
    ends = {"held-out-00": "0", "held-out-01": "1"}
    assert report["between"]["weights"] == [0, 0.5, 1]
    for user, weight in ends.items():
        one, other = ((tmp_path / "out" / where / "00003.png") for where in (f"between/{weight}", f"ppd-2/{user}"))
        assert np.array_equal(read_image(str(one)), read_image(str(other)))
        found = report["models"]["ppd-2"]["users"][user]["utility"]
        assert report["between"]["utility"][user][round(float(weight)) * 2] == pytest.approx(found)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"between": {"model": "base", "users": ["held-out-00", "held-out-01"], "shots": 1}},
            "between.model: there is no 'base' among ppd",
        ),
        (
            {"between": {"model": "ppd", "users": ["held-out-00", "ann"], "shots": 1}},
            "between.users: there is no 'ann' among held",
        ),
        ({"sheets": {"row": "ppd"}}, "sheets.row: there is no 'ppd' among base, ppd-1"),
    ],
)
def test_names_that_there_are_not_are_told_before_anything_is_drawn(world, tmp_path, changed, said, monkeypatch):
    monkeypatch.setattr(drawing, "generate_pictures", lambda *a, **k: pytest.fail("drawn"))
    with pytest.raises(Refusal, match=said):
        run(world, tmp_path, **changed)
