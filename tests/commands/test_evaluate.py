import json
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import yaml
from PIL import Image
from started import HELPERS, started

from diffpo.cli.command import launch, parse
from diffpo.commands import evaluate
from diffpo.core.refusal import Refusal
from diffpo.diffusion.evaluation import drawing
from diffpo.diffusion.evaluation.model import ComparedModel
from diffpo.storage.digests import digest_of, read_json

PROMPTS = ["a red circle on the left, white background", "a blue cross, black background", "a green square"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base, a tuned UNet, a folder of pictures, and prompts."""
    root = tmp_path_factory.mktemp("world")
    tiny.saved(root / "base")
    tiny.moved(tiny.unet()).save_pretrained(root / "run" / "unet")
    (root / "theirs").mkdir()
    for n in range(6):
        tiny.picture(seed=n, size=(32, 32)).save(root / "theirs" / f"{n}.png")
    (root / "prompts.txt").write_text("\n".join(PROMPTS))
    (root / "development.txt").write_text("a pink circle at the top\n")
    return root


def config(world, tmp_path, **changed) -> Path:
    base = str(world / "base")
    plan = {
        "models": [{"name": "base", "base": base}, {"name": "tuned", "base": base, "unet": str(world / "run")}],
        "prompts": {"path": str(world / "prompts.txt")},
        "scorers": [{"class_path": "brightness.Brightness"}, {"class_path": "diffpo.lab.Oracle"}],
        "sampling": {"pictures": 2, "steps": 1, "guidance": 2.0, "first_seed": 5, "batch_size": 2},
    }
    file = tmp_path / "evaluate.yaml"
    file.write_text(yaml.safe_dump(plan | changed))
    return file


def run(world, tmp_path, **changed) -> dict:
    arguments = [f"--config={config(world, tmp_path, **changed)}", f"--output_dir={tmp_path / 'out'}"]
    chosen, settings = parse(evaluate.main, arguments)
    evaluate.main(**chosen, settings=settings)
    return json.loads((tmp_path / "out" / "report.json").read_text())


def said(world, tmp_path, monkeypatch, capsys, **changed) -> str:
    """What the script says when it stops with an error."""
    arguments = [f"--config={config(world, tmp_path, **changed)}", f"--output_dir={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
    with pytest.raises(SystemExit):
        launch(evaluate.main)
    told = capsys.readouterr().err
    return told[told.rindex("error: ") :]


def listed(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]


def test_models_and_finished_pictures_are_compared_by_every_scorer(world, tmp_path, capsys):
    theirs = {"name": "theirs", "pictures": str(world / "theirs")}
    models = [*yaml.safe_load(config(world, tmp_path).read_text())["models"], theirs]
    report = run(world, tmp_path, models=models)
    out = tmp_path / "out"
    assert (report["n_prompts"], report["pictures"], report["guidance"], report["seed"]) == (3, 2, 2.0, 5)
    assert list(report["scorers"]) == ["brightness", "oracle"]
    assert {name: about["cut"] for name, about in report["scorers"].items()} == {"brightness": 0, "oracle": 0}
    assert [(pair["a"], pair["b"]) for pair in report["pairs"] if pair["metric"] == "oracle"] == [
        ("tuned", "base"),
        ("theirs", "base"),
        ("theirs", "tuned"),
    ]
    for name in ("base", "tuned", "theirs"):
        lines = listed(out / name)
        assert [line["prompt"] for line in lines] == [prompt for prompt in PROMPTS for _ in range(2)]
        files = [out / report["models"][name]["folder"] / line["file"] for line in lines]
        bright = [float(np.asarray(Image.open(file)).mean()) for file in files]
        assert [line["scores"]["brightness"] for line in lines] == pytest.approx(bright)
        assert report["models"][name]["scores"]["brightness"]["mean"] == pytest.approx(np.mean(bright))
    assert [line["seed"] for line in listed(out / "tuned")] == [5, 6, 7, 8, 9, 10]
    assert {line["seed"] for line in listed(out / "theirs")} == {None}
    assert (out / "report.html").exists()
    assert yaml.safe_load((out / "config.yaml").read_text())["models"][1]["unet"] == str(world / "run")
    assert "theirs" in capsys.readouterr().out


def test_the_same_command_again_draws_and_scores_nothing(world, tmp_path, monkeypatch):
    first = run(world, tmp_path)
    monkeypatch.setattr(drawing, "generate_pictures", lambda *_, **__: pytest.fail("a picture was drawn again"))
    monkeypatch.setattr("brightness.Brightness.__call__", lambda *_: pytest.fail("a picture was scored again"))
    again = run(world, tmp_path)
    assert again | {"seconds": 0} == first | {"seconds": 0}


def test_a_damaged_report_is_written_anew_by_the_same_command(world, tmp_path, monkeypatch):
    first, file = run(world, tmp_path), tmp_path / "out" / "report.json"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(Refusal, match="or remove it and run the command that wrote it once more"):
        read_json(file)
    file.unlink()
    monkeypatch.setattr(drawing, "generate_pictures", lambda *_, **__: pytest.fail("a picture was drawn again"))
    assert run(world, tmp_path) | {"seconds": 0} == first | {"seconds": 0}


def test_listings_are_named_with_their_digests_and_pictures_of_another_listing_are_refused(
    world, tmp_path, monkeypatch, capsys
):
    theirs = {"name": "theirs", "pictures": str(world / "theirs")}
    models = [*yaml.safe_load(config(world, tmp_path).read_text())["models"], theirs]
    for _ in range(2):
        run(world, tmp_path, models=models)
        for name, count in {"base": 6, "tuned": 6, "theirs": 0}.items():
            named = json.loads((tmp_path / "out" / name / "files.json").read_text())["files"]
            assert named["prompts.jsonl"] == digest_of(tmp_path / "out" / name / "prompts.jsonl")
            assert len(named) == count + 1
    (tmp_path / "out").rename(tmp_path / "first")
    again = [{"name": name, "pictures": str(tmp_path / "first" / name)} for name in ("base", "tuned")]
    run(world, tmp_path, models=again)
    listing = tmp_path / "first" / "tuned" / "prompts.jsonl"
    listing.write_text(listing.read_text().replace("00001.png", "00000.png"))
    told = said(world, tmp_path, monkeypatch, capsys, models=again)
    assert f"{listing} is damaged (it is not what was written); copy it again" in told
    assert "or remove it and run the command that wrote it once more" in told


def test_a_scorer_can_be_added_later(world, tmp_path, monkeypatch):
    first = run(world, tmp_path, scorers=[{"class_path": "brightness.Brightness"}])
    monkeypatch.setattr("brightness.Brightness.__call__", lambda *_: pytest.fail("a picture was scored again"))
    report = run(world, tmp_path)
    assert report["models"]["base"]["scores"]["brightness"] == first["models"]["base"]["scores"]["brightness"]
    assert "oracle" in report["models"]["base"]["scores"]


def test_the_guidance_scale_is_chosen_on_other_prompts_and_a_model_is_loaded_once(world, tmp_path, monkeypatch):
    loads, load = [], ComparedModel.load
    monkeypatch.setattr(ComparedModel, "load", lambda self: loads.append(self.name) or load(self))
    sweep = {"prompts": {"path": str(world / "development.txt")}, "scales": [1.0, 3.0], "by": "brightness"}
    report = run(world, tmp_path, sweep=sweep)
    swept = report["guidance_sweep"]
    assert loads == ["base", "tuned"]
    assert swept["n_prompts"] == 1
    for name, curves in swept["curves"].items():
        means = {point["scale"]: point["mean"] for point in curves["brightness"]}
        best = max(means, key=lambda scale: means[scale])
        assert (swept["chosen"][name], report["models"][name]["guidance"]) == (best, best)
        assert json.loads((tmp_path / "out" / name / "drawn.json").read_text())["sampling"]["guidance"] == best


def test_pictures_can_be_had_in_the_layout_of_geneval(world, tmp_path):
    run(world, tmp_path, geneval=True)
    folder = tmp_path / "out" / "geneval" / "tuned" / "00002"
    assert json.loads((folder / "metadata.jsonl").read_text()) == {"prompt": PROMPTS[2]}
    assert [file.name for file in sorted((folder / "samples").iterdir())] == ["0000.png", "0001.png"]


def test_an_unreadable_picture_is_marked_and_the_rest_goes_on(world, tmp_path):
    run(world, tmp_path)
    torn = tmp_path / "out" / "base" / "00001.png"
    models = [{"name": name, "pictures": str(tmp_path / "out" / name)} for name in ("base", "tuned")]
    torn.write_bytes(torn.read_bytes()[:100])
    (tmp_path / "second").mkdir()
    report = run(world, tmp_path / "second", models=models)
    assert [report["models"][name]["unreadable"] for name in ("base", "tuned")] == [1, 0]
    lines = listed(tmp_path / "second" / "out" / "base")
    assert [line["scores"]["brightness"] is None for line in lines] == [False, True, False, False, False, False]


def test_scores_of_replaced_pictures_are_not_taken_for_theirs(world, tmp_path, monkeypatch, capsys):
    shutil.copytree(world / "theirs", tmp_path / "theirs")
    models = [{"name": "theirs", "pictures": str(tmp_path / "theirs")}]
    run(world, tmp_path, models=models)
    tiny.picture("white", size=(32, 32)).save(tmp_path / "theirs" / "0.png")
    told = said(world, tmp_path, monkeypatch, capsys, models=models)
    assert "theirs/scores/brightness holds results of something else: pictures was" in told


@pytest.fixture(scope="module")
def killed(world, tmp_path_factory):
    """Two processes go on where one was killed while it scored."""
    root = tmp_path_factory.mktemp("killed")
    scorer = {"class_path": "brightness.Brightness", "init_args": {"log": str(root / "log"), "deadly": 2}}
    script = [HELPERS.parents[1] / "scripts" / "evaluate.py", f"--output_dir={root / 'out'}"]
    file = config(world, root, scorers=[scorer])
    assert started(*script, f"--config={file}") == [-signal.SIGKILL]
    (root / "out" / "tuned" / "00003.png").unlink()
    scorer["init_args"]["deadly"] = None
    file = config(world, root, scorers=[scorer])
    assert started(*script, f"--config={file}", processes=2) == [0, 0]
    return root


def test_two_processes_go_on_where_one_was_killed_and_find_the_same(killed, world, tmp_path):
    whole = run(world, tmp_path, scorers=[{"class_path": "brightness.Brightness"}])
    report = json.loads((killed / "out" / "report.json").read_text())
    assert report | {"seconds": 0} == whole | {"seconds": 0}
    assert listed(killed / "out" / "tuned") == listed(tmp_path / "out" / "tuned")
    for name in ("base", "tuned"):
        for n in range(6):
            one, two = (root / "out" / name / f"{n:05d}.png" for root in (killed, tmp_path))
            assert one.read_bytes() == two.read_bytes()


def test_what_was_scored_before_the_kill_was_not_scored_again(killed):
    scored = (killed / "log").read_text().splitlines()
    assert len(scored) == len(set(scored)) == 12


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": []}, "There are no models to compare"),
        ({"models": [{"name": "a", "base": "no/such"}]}, "Cannot load a diffusers pipeline from 'no/such'"),
        ({"models": [{"name": "a", "base": "x", "unett": "y"}]}, "unett"),
        ({"models": [{"name": "a", "pictures": "configs"}]}, "has 0 pictures in configs"),
        ({"prompts": {"path": "no/such.txt"}}, "Cannot load prompts from 'no/such.txt'"),
        ({"scorers": []}, "at least one scorer"),
        (
            {"scorers": [{"class_path": "diffpo.scorers.PickScore", "init_args": {"path": "no/such"}}]},
            "Cannot load a CLIP model from 'no/such'",
        ),
        (
            {"scorers": [{"class_path": "brightness.Brightness", "init_args": {"version": v}} for v in "12"]},
            "Two scorers are called 'brightness'",
        ),
        ({"sampling": {"pictures": 0}}, "at least one picture"),
    ],
)
def test_bad_input_is_told_in_a_line(world, tmp_path, monkeypatch, capsys, changed, message):
    assert message in said(world, tmp_path, monkeypatch, capsys, **changed)


@pytest.mark.parametrize("part", ["base", "unet", "lora", "negative", "vae"])
def test_a_later_model_that_is_not_there_is_told_before_an_earlier_one_draws(
    world, tmp_path, monkeypatch, capsys, part
):
    monkeypatch.setattr(evaluate, "draw_pictures", lambda *_, **__: pytest.fail("something was drawn"))
    base = str(world / "base")
    last = {"name": "last", "base": base} | {part: str(tmp_path / "nowhere")}
    told = said(world, tmp_path, monkeypatch, capsys, models=[{"name": "first", "base": base}, last])
    assert told.startswith(f"error: There is no {tmp_path}/nowhere, which was named as ")
    assert told.count("\n") == 1
    last[part] = "no/such"
    told = said(world, tmp_path, monkeypatch, capsys, models=[{"name": "first", "base": base}, last])
    assert re.match(r"error: Cannot load .* from 'no/such': there is no such local path", told)


def test_an_empty_list_of_prompts_is_refused(world, tmp_path, monkeypatch, capsys):
    (tmp_path / "none.txt").write_text("\n")
    assert "holds no prompts" in said(
        world, tmp_path, monkeypatch, capsys, prompts={"path": str(tmp_path / "none.txt")}
    )


def test_scores_of_another_version_are_not_mixed_in(world, tmp_path, monkeypatch, capsys):
    run(world, tmp_path)
    other = [{"class_path": "brightness.Brightness", "init_args": {"version": "median"}}]
    told = said(world, tmp_path, monkeypatch, capsys, scorers=other)
    assert "version was 'mean' and is 'median'; choose another output_dir" in told


def test_a_training_run_and_other_folders_are_left_as_they_are(world, tmp_path, monkeypatch, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").write_text("seed: 3")
    told = said(world, tmp_path, monkeypatch, capsys)
    assert "out is not empty: it holds config.yaml, which no evaluation has left there; choose another" in told
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["config.yaml"]
    assert (tmp_path / "out" / "config.yaml").read_text() == "seed: 3"


def test_how_far_the_pictures_of_each_model_lie_from_a_folder_is_told(world, tmp_path, capsys):
    encoder = {"class_path": "diffpo.scorers.CLIPScore", "init_args": {"path": "assets/tiny-clip"}}
    folder = {"class_path": "diffpo.diffusion.PictureFolder", "init_args": {"path": str(world / "theirs")}}
    frechet = {"reference": folder, "encoder": encoder}
    theirs = {"name": "theirs", "pictures": str(world / "theirs")}
    models = [{"name": "base", "base": str(world / "base")}, theirs]
    report = run(world, tmp_path, models=models, frechet=frechet)
    assert report["frechet"]["reference_pictures"] == 6
    far = {name: model["frechet"] for name, model in report["models"].items()}
    assert far["theirs"] == pytest.approx(0, abs=1e-6)
    assert far["base"] > 1
    assert re.search(r"diversity +frechet\n", capsys.readouterr().out)
    page = (tmp_path / "out" / "report.html").read_text()
    assert f">{far['base']:.3f}</td>" in page
    assert "distance of all pictures from 6 others" in page


def test_distances_that_cannot_be_measured_are_refused_before_anything_is_drawn(world, tmp_path, monkeypatch, capsys):
    encoder = {"class_path": "diffpo.scorers.CLIPScore", "init_args": {"path": "assets/tiny-clip"}}
    (tmp_path / "empty").mkdir()
    folder = {"class_path": "diffpo.diffusion.PictureFolder", "init_args": {"path": str(tmp_path / "empty")}}
    words = said(world, tmp_path, monkeypatch, capsys, frechet={"reference": folder, "encoder": encoder})
    assert "empty holds no" in words
    assert not (tmp_path / "out" / "base").exists()
