"""Runs whose pictures of development prompts are judged on the way."""

import json

import pytest
import torch
from brightness import Brightness
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from tiny import pair_folder, saved

from diffpo.cli.command import parse
from diffpo.commands import train
from diffpo.diffusion.model.loading import LoadedStableDiffusion
from diffpo.diffusion.model.sampling import generate_pictures

PROMPTS = ["a red circle", "a blue cross"]
JUDGED = ["--validation.share=0.4", "--validation.every=1", "--validation.pairs=2"]
DRAWN = ["--validation.drawn.scorer=brightness.Brightness", f"--validation.drawn.prompts={json.dumps(PROMPTS)}"]
DRAWN += ["--validation.drawn.steps=2", "--validation.drawn.guidance=2.0"]
LOWEST = ["--validation.keep_best.metric=drawn_score", "--validation.keep_best.better=lower"]
ADAPTER = ["--base.adapter=diffpo.diffusion.LoRA", "--base.adapter.rank=2", "--base.adapter.dropout=0.5"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    pair_folder(root / "pairs")
    saved(root / "base")
    return root


def run(world, folder, *overrides: str) -> None:
    words = ["--config=configs/quickstart.yaml", f"--base.path={world / 'base'}", f"--output_dir={folder}"]
    words += ["--data.source=diffpo.data.PairFolder", f"--data.source.path={world / 'pairs'}", "--optimizer.lr=0.01"]
    words += ["--fit.steps=3", "--fit.batch_size=2", "--fit.per_device_batch_size=2", "--fit.save_every=1"]
    words += ["--fit.warmup=0", "--fit.keep=9", "--preview=null", "--evaluation=null", *JUDGED, *overrides]
    chosen, settings = parse(train.main, words)
    torch.manual_seed(0)  # of dropout
    train.main(**chosen, settings=settings)


def lines(folder) -> list[dict]:
    said = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "pairs_per_second"} for line in said]


def scores(folder) -> dict[int, float]:
    return {line["step"]: line["validation/drawn_score"] for line in lines(folder) if "validation/drawn_score" in line}


def stored(folder, step: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"checkpoint-{step:06d}" / "trainable.safetensors")


def exported(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one | other)


@pytest.mark.parametrize("more", [["--fit.ema=0.5"], ADAPTER], ids=["average", "adapters with dropout"])
def test_pictures_are_judged_and_training_does_not_notice(world, tmp_path, more):
    run(world, tmp_path / "plain", *more)
    run(world, tmp_path / "drawn", *more, *DRAWN)
    told = lines(tmp_path / "drawn")
    assert set(scores(tmp_path / "drawn")) == {1, 2, 3}
    plain = [{name: x for name, x in line.items() if not name.startswith("validation/drawn_")} for line in told]
    assert plain == lines(tmp_path / "plain")
    for step in (1, 2, 3):
        assert same(stored(tmp_path / "drawn", step), stored(tmp_path / "plain", step))


def test_the_pictures_are_those_of_what_is_exported(world, tmp_path):
    run(world, tmp_path, "--fit.ema=0.5", *DRAWN)
    unet = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    pipe = StableDiffusionPipeline.from_pretrained(world / "base", unet=unet)
    pictures = generate_pictures(pipe, PROMPTS, [0, 1], steps=2, guidance=2.0, batch_size=8)
    assert not same(exported(tmp_path), stored(tmp_path, 3))
    assert scores(tmp_path)[3] == pytest.approx(float(Brightness()(PROMPTS, pictures).mean()), abs=1e-4)


def test_a_killed_run_that_resumes_ends_with_the_weights_of_the_best_pictures(world, tmp_path, monkeypatch):
    """The best of the last two steps, and of a run that dies within the third; its base is drawn anew."""
    run(world, tmp_path / "whole", "--fit.ema=0.5", *DRAWN, *LOWEST)
    told = scores(tmp_path / "whole")
    best = json.loads((tmp_path / "whole" / "best.json").read_text())
    assert best["step"] == min(told, key=lambda step: (told[step], step))
    assert (best["metric"], best["value"]) == ("validation/drawn_score", told[best["step"]])
    prepare, calls = LoadedStableDiffusion.prepare, []

    def dying(*given):
        calls.append(None)
        if len(calls) == 6:  # one tells which metrics there are, two are judged, and two were trained on
            raise KeyboardInterrupt
        return prepare(*given)

    with monkeypatch.context() as patched:
        patched.setattr(LoadedStableDiffusion, "prepare", dying)
        with pytest.raises(KeyboardInterrupt):
            run(world, tmp_path / "killed", "--fit.ema=0.5", *DRAWN, *LOWEST)
    assert set(scores(tmp_path / "killed")) == {1, 2}
    run(world, tmp_path / "killed", "--fit.ema=0.5", *DRAWN, *LOWEST, "--resume=latest")
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    assert json.loads((tmp_path / "killed" / "best.json").read_text()) == best
    assert same(exported(tmp_path / "killed"), exported(tmp_path / "whole"))
    until = [f"--fit.steps={best['step']}", "--fit.ema=0.5"]
    run(world, tmp_path / "until", *until)
    assert same(exported(tmp_path / "whole"), exported(tmp_path / "until"))
