"""Negatives of a flow, from training to pictures: NPO and Self-NPO on a tiny SD3, mixed, loaded and compared."""

from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import StableDiffusion3Pipeline
from PIL import Image
from tiny import pair_folder
from tiny_families import sd3

from diffpo.cli.command import parse
from diffpo.commands import evaluate, train
from diffpo.diffusion.pipelines.negative import NegativeGuidanceMixin
from diffpo.diffusion.pipelines.negative_mixing import mix_negative

FAMILY = {"class_path": "diffpo.diffusion.families.SD3", "init_args": {"length": 1}}
LORA = {"adapter": {"class_path": "diffpo.diffusion.LoRA"}}
PREFERENCE, SELF_NPO = "diffpo.diffusion.DenoisingPreference", "diffpo.diffusion.methods.SelfNPO"
WAYS: dict[str, dict[str, Any]] = {
    "NPO": {"base": LORA, "rows": [{"class_path": "diffpo.data.Reverse"}], "objective": PREFERENCE},
    "Self-NPO": {"base": {}, "rows": [], "objective": SELF_NPO, "reference": {"class_path": "diffpo.core.Ema"}},
}
TOLD = {"prompt": "two", "guidance_scale": 4.0, "height": 64, "width": 64, "num_inference_steps": 1}
TOLD |= {"max_sequence_length": 1}


class NegativeSD3(NegativeGuidanceMixin, StableDiffusion3Pipeline):
    pass


@pytest.fixture(scope="module", params=WAYS)
def root(request, tmp_path_factory):
    """A base, and a negative that a run of two steps has made of it."""
    root, way = tmp_path_factory.mktemp("npo"), dict(WAYS[request.param])
    sd3(with_t5=False).save_pretrained(root / "base")
    pair_folder(root / "pairs", n=4)
    plan = {
        "base": {"path": str(root / "base"), "family": FAMILY} | way.pop("base"),
        "data": {
            "source": {"class_path": "diffpo.data.PairFolder", "init_args": {"path": str(root / "pairs")}},
            "rows": way.pop("rows"),
            "framing": {"resolution": 64},
            "workers": 0,
        },
        "objective": {"class_path": way.pop("objective")},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.05}},
        "fit": {"steps": 2, "batch_size": 4, "per_device_batch_size": 4, "save_every": None},
    }
    (root / "train.yaml").write_text(yaml.safe_dump(plan | way))
    chosen, settings = parse(train.main, [f"--config={root / 'train.yaml'}", f"--output_dir={root / 'run'}"])
    train.main(**chosen, settings=settings)
    return root


def draw(root, negative: str | None) -> np.ndarray:
    """By the pipeline of diffusers and its mixin."""
    kind = NegativeSD3 if negative else StableDiffusion3Pipeline
    pipe = kind.from_pretrained(root / "base", text_encoder_3=None, tokenizer_3=None)
    if negative:
        pipe.load_negative(negative)
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(pipe(**TOLD, generator=[torch.Generator().manual_seed(0)]).images[0]).astype(int)


def test_what_was_trained_mixes_into_a_whole_negative_that_draws_the_same(root, tmp_path):
    found = draw(root, str(root / "run"))
    assert np.abs(found - draw(root, None)).max() > 1
    told = mix_negative(str(root / "base"), str(root / "run"), tmp_path / "mixed")
    assert told.path == tmp_path / "mixed" / "transformer"
    np.testing.assert_allclose(draw(root, str(tmp_path / "mixed")), found, atol=1)
    mix_negative(str(root / "base"), str(root / "run"), tmp_path / "difference", difference=True)
    np.testing.assert_allclose(draw(root, str(tmp_path / "difference")), found, atol=1)


def test_an_evaluation_draws_with_the_negative(root, tmp_path):
    base = {"base": str(root / "base"), "family": FAMILY}
    (tmp_path / "prompts.txt").write_text(TOLD["prompt"])
    plan = {
        "models": [{"name": "base"} | base, {"name": "away", "negative": str(root / "run")} | base],
        "prompts": {"path": str(tmp_path / "prompts.txt")},
        "scorers": [{"class_path": "brightness.Brightness"}],
        "sampling": {"steps": TOLD["num_inference_steps"], "guidance": TOLD["guidance_scale"], "side": 64},
    }
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(plan))
    out = tmp_path / "out"
    chosen, settings = parse(evaluate.main, [f"--config={tmp_path / 'evaluate.yaml'}", f"--output_dir={out}"])
    evaluate.main(**chosen, settings=settings)
    for name, negative in (("base", None), ("away", str(root / "run"))):
        mine = np.asarray(Image.open(out / name / "00000.png")).astype(int)
        np.testing.assert_allclose(mine, draw(root, negative), atol=1)
