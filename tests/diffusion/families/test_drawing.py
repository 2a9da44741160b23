"""Previews and `diffpo evaluate` draw with transformers as their own pipelines do, guided in their own way."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny import pair_folder
from tiny_families import qwen_image, sd3

from diffpo.cli.command import parse
from diffpo.commands import evaluate, train

PROMPTS = ["a red circle", "two"]
SIDE, STEPS, GUIDANCE = 64, 2, 4.0
WAYS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "SD3": (lambda: sd3(with_t5=False), {"guidance_scale": GUIDANCE}),
    "QwenImage": (qwen_image, {"true_cfg_scale": GUIDANCE, "negative_prompt": " "}),
}


@pytest.fixture(scope="module", params=WAYS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def root(name, tmp_path_factory):
    """A base, and what a run of two steps with previews has left."""
    root = tmp_path_factory.mktemp("drawn")
    WAYS[name][0]().save_pretrained(root / "base")
    pair_folder(root / "pairs", n=4)
    plan = {
        "base": {"path": str(root / "base"), "family": kind(name), "adapter": {"class_path": "diffpo.diffusion.LoRA"}},
        "data": {
            "source": {"class_path": "diffpo.data.PairFolder", "init_args": {"path": str(root / "pairs")}},
            "framing": {"resolution": SIDE},
            "workers": 0,
        },
        "objective": {"class_path": "diffpo.diffusion.DenoisingPreference"},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.5}},
        "fit": {"steps": 2, "batch_size": 4, "per_device_batch_size": 4, "save_every": None},
        "preview": {"prompts": PROMPTS, "every": 2, "steps": STEPS, "guidance": GUIDANCE, "side": SIDE},
    }
    (root / "train.yaml").write_text(yaml.safe_dump(plan))
    chosen, settings = parse(train.main, [f"--config={root / 'train.yaml'}", f"--output_dir={root / 'run'}"])
    train.main(**chosen, settings=settings)
    return root


def kind(name: str) -> dict[str, str]:
    return {"class_path": f"diffpo.diffusion.families.{name}"}


def theirs(root, name: str, tuned: bool) -> list[np.ndarray]:
    """Pictures of the pipeline as diffusers loads it."""
    absent = {"text_encoder_3": None, "tokenizer_3": None} if name == "SD3" else {}
    whole = WAYS[name][0]()
    pipe = type(whole).from_pretrained(root / "base", **absent)
    if tuned:
        pipe.load_lora_weights(str(root / "run"))
    pipe.set_progress_bar_config(disable=True)
    told = {"height": SIDE, "width": SIDE, "num_inference_steps": STEPS} | WAYS[name][1]
    made = pipe(prompt=list(PROMPTS), generator=[torch.Generator().manual_seed(i) for i in range(2)], **told).images
    return [np.asarray(picture).astype(int) for picture in made]


def test_a_preview_shows_the_guided_pictures_of_base_and_policy(root, name):
    grid = np.asarray(Image.open(root / "run" / "previews" / "step-000002.png").convert("RGB")).astype(int)
    for row, tuned in enumerate((False, True)):
        for column, picture in enumerate(theirs(root, name, tuned)):
            mine = grid[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
            np.testing.assert_allclose(mine, picture, atol=1)
    assert np.abs(grid[:SIDE] - grid[SIDE:]).max() > 1


def test_an_evaluation_draws_the_guided_pictures_of_base_and_result(root, name, tmp_path):
    base = {"base": str(root / "base"), "family": kind(name)}
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    plan = {
        "models": [{"name": "base"} | base, {"name": "tuned", "lora": str(root / "run")} | base],
        "prompts": {"path": str(tmp_path / "prompts.txt")},
        "scorers": [{"class_path": "brightness.Brightness"}],
        "sampling": {"steps": STEPS, "guidance": GUIDANCE, "side": SIDE, "batch_size": 2},
    }
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(plan))
    chosen, settings = parse(
        evaluate.main, [f"--config={tmp_path / 'evaluate.yaml'}", f"--output_dir={tmp_path / 'out'}"]
    )
    evaluate.main(**chosen, settings=settings)
    for model, tuned in (("base", False), ("tuned", True)):
        for number, picture in enumerate(theirs(root, name, tuned)):
            mine = np.asarray(Image.open(tmp_path / "out" / model / f"{number:05d}.png")).astype(int)
            np.testing.assert_allclose(mine, picture, atol=1)
    assert set(json.loads((tmp_path / "out" / "report.json").read_text())["models"]) == {"base", "tuned"}
