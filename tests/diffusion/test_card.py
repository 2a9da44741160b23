import re

import numpy as np
import pytest
import yaml
from tiny import drawn, saved, trained

from diffpo.adapters import LoRA
from diffpo.diffusion.card import write_card
from diffpo.diffusion.data import PairData
from diffpo.diffusion.loading import StableDiffusion
from diffpo.sources import PairFolder


def card(folder, base=None, ema: float | None = None) -> str:
    folder.mkdir(exist_ok=True)
    data = PairData(PairFolder("my/pairs"))
    write_card(folder, base or StableDiffusion("some/base"), data, ema, "9 of 10 rows.", "objective:\n  beta: 5000\n")
    return (folder / "README.md").read_text()


def snippet(text: str) -> str:
    return re.search("```python\n(.*?)```", text, re.DOTALL)[1]


def test_base_data_report_and_recipe_are_named(tmp_path):
    text = card(tmp_path / "run")
    assert "`some/base` tuned on image preferences" in text
    assert "PairFolder(path='my/pairs')" in text
    assert "9 of 10 rows." in text
    assert "```yaml\nobjective:\n  beta: 5000\n```" in text


def test_the_head_says_what_hubs_ask_for(tmp_path):
    head = yaml.safe_load(card(tmp_path / "run").split("---")[1])
    assert head["base_model"] == "some/base"
    assert head["library_name"] == "diffusers"
    assert "text-to-image" in head["tags"]


def test_averaged_weights_are_said_to_be(tmp_path):
    assert "moving average of the run (decay 0.99)" in card(tmp_path / "run", ema=0.99)
    assert "moving average" not in card(tmp_path / "run")


@pytest.mark.parametrize("name", ["my run--1", "-x", "gpt2"])
def test_any_folder_name_will_do(tmp_path, name):
    assert f"# {name}\n" in card(tmp_path / name)


def test_a_second_card_replaces_the_first(tmp_path):
    card(tmp_path / "run", ema=0.5)
    assert "0.5" not in card(tmp_path / "run")


def test_parts_that_replaced_the_bases_own_are_named(tmp_path):
    full = card(tmp_path / "run", StableDiffusion("some/base", unet="some/start", vae="some/vae"))
    assert "also `vae=` with the one of `some/vae`: it" in full
    lora = card(tmp_path / "run", StableDiffusion("some/base", unet="some/start", adapter=LoRA()))
    assert "also `unet=` with the one of `some/start`: it" in lora
    assert "Give" not in card(tmp_path / "run", StableDiffusion("some/base", unet="some/start"))


@pytest.mark.parametrize("adapter", [None, LoRA(rank=2)])
def test_the_snippet_loads_what_was_tuned(tmp_path, monkeypatch, adapter):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "base")
    config = StableDiffusion("base", adapter=adapter)
    model = config.load()
    trained(model.unet)
    model.save(tmp_path / "run")
    names: dict = {}
    exec(snippet(card(tmp_path / "run", config)), names)
    assert np.array_equal(drawn(names["pipe"]), drawn(model.pipeline()))
