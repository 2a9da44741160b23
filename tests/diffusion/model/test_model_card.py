import json
import re
from dataclasses import replace

import numpy as np
import pytest
from diffusers import FluxPipeline
from huggingface_hub import ModelCard
from PIL import Image
from shards import png
from single_file import save_single_file
from tiny import drawn, pipeline, saved, saved_xl, trained

from diffpo.data.layouts import PairFolder, PickAPic
from diffpo.diffusion.data.encoded import EncodedPairs
from diffpo.diffusion.data.pairs import PairData
from diffpo.diffusion.families.flux import Flux
from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.model.model_card import write_card, write_snippet
from diffpo.diffusion.objective.noising import ForwardNoise, LogitNormal, Shifted
from diffpo.diffusion.objective.preference import DenoisingPreference
from diffpo.diffusion.objective.space import OutputSpace
from diffpo.train.model_card import find_paths

SETTINGS = "objective:\n  beta: 5000\n"


def card(folder, base=None, source=None, **more) -> str:
    folder.mkdir(exist_ok=True)
    data = PairData(source or PairFolder("my/pairs"))
    base = base or StableDiffusion("some/base")
    write_card(folder, base, data, DenoisingPreference(), "9 of 10 rows.", SETTINGS, **more)
    return (folder / "README.md").read_text()


def head(text: str) -> dict:
    return ModelCard(text).data.to_dict()


def snippet(text: str) -> str:
    return re.search("```python\n(.*?)```", text, re.DOTALL)[1]


class OwnPipeline(FluxPipeline):
    """Of a user's."""


class OwnFamily(Flux):
    pipeline = OwnPipeline


def test_a_pipeline_and_a_network_are_imported_from_where_they_are():
    base = StableDiffusion("some/base", family=OwnFamily())
    lines = write_snippet(base, "OwnPipeline", "some/run").split("\n")
    own, network = f"from {__name__} import OwnPipeline", "from diffusers import FluxTransformer2DModel"
    assert lines[:3] == [own, network, ""]
    assert write_snippet(replace(base, family=Flux()), "FluxPipeline", "some/run").startswith(
        "from diffusers import FluxPipeline, FluxTransformer2DModel\n\n"
    )


def test_base_method_data_report_command_and_recipe_are_named(tmp_path):
    text = card(tmp_path / "run", command=["scripts/train.py", "--preview.prompts=[a cat]"])
    assert "`some/base` tuned on image preferences" in text
    assert "`diffpo.diffusion.DenoisingPreference`" in text
    assert "PairFolder(path='my/pairs')" in text
    assert "9 of 10 rows." in text
    assert "accelerate launch scripts/train.py '--preview.prompts=[a cat]'" in text
    assert "```yaml\nobjective:\n  beta: 5000\n```" in text
    assert re.search(r"diffpo \S+, torch \S+, diffusers \S+, transformers \S+, peft \S+,.* accelerate \S+\n", text)


def test_of_a_family_that_was_named_the_card_says_guidance_space_and_times(tmp_path):
    base, data = StableDiffusion("some/base", family=Flux(guidance=2.5)), PairData(PairFolder("my/pairs"))
    times = Shifted(LogitNormal(), shift=None)
    objective = DenoisingPreference(noising=ForwardNoise(times), space=OutputSpace())
    (tmp_path / "run").mkdir()
    write_card(tmp_path / "run", base, data, objective, "", SETTINGS, "FluxPipeline")
    text = (tmp_path / "run" / "README.md").read_text()
    assert "called as `Flux(length=512, guidance=2.5)`. If guidance is embedded in it, it was told 2.5" in text
    assert "Space: `OutputSpace()`." in text
    assert f"Noising: `ForwardNoise(times={times})`." in text
    assert "called as" not in card(tmp_path / "plain")


def test_the_head_of_a_full_model_says_what_hubs_ask_for(tmp_path):
    told = head(card(tmp_path / "run", source=PickAPic("some/pairs")))
    assert told == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "base_model": "some/base",
        "base_model_relation": "finetune",
        "datasets": ["some/pairs"],
        "tags": ["diffusers", "text-to-image", "diffusion-dpo", "diffpo"],
    }


def test_the_head_of_a_lora_says_so_and_names_both_things_it_stands_on(tmp_path):
    told = head(card(tmp_path / "run", StableDiffusion("some/base", unet="some/start", adapter=LoRA())))
    assert told["base_model"] == ["some/base", "some/start"]
    assert told["base_model_relation"] == "adapter"
    assert told["tags"][-2:] == ["lora", "template:diffusion-lora"]


def test_local_bases_and_data_stay_out_of_the_head(tmp_path, monkeypatch):
    """The hub refuses a card with ids that it does not have."""
    monkeypatch.chdir(tmp_path)
    for name in ("base", "pairs"):
        (tmp_path / name).mkdir()
    told = head(card(tmp_path / "run", StableDiffusion("base"), PickAPic("pairs")))
    assert not told.keys() & {"base_model", "base_model_relation", "datasets", "license"}
    assert "datasets" not in head(card(tmp_path / "run", source=PickAPic(str(tmp_path / "a" / "b" / "c"))))


def test_sources_inside_sources_are_found():
    assert find_paths({"sources": [{"path": "a", "split": "x"}, {"inner": {"path": "b"}}], "weights": None}) == [
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", {"license": "creativeml-openrail-m"}),
        ("stabilityai/stable-diffusion-xl-base-1.0", {"license": "openrail++"}),
        (
            "stabilityai/sdxl-turbo",
            {
                "license": "other",
                "license_name": "stability-ai-community",
                "license_link": "https://stability.ai/license",
            },
        ),
        ("some/base", {}),
    ],
)
def test_the_license_is_the_bases_where_it_is_known(tmp_path, base, told):
    text = card(tmp_path / "run", StableDiffusion(base))
    assert {key: value for key, value in head(text).items() if key.startswith("license")} == told
    assert f"The weights derive from `{base}`, whose license " in text


def test_averaged_weights_are_said_to_be(tmp_path):
    assert "moving average of the run (decay 0.99)" in card(tmp_path / "run", ema=0.99)
    assert "moving average" not in card(tmp_path / "run")


@pytest.mark.parametrize("name", ["my run--1", "-x", "gpt2"])
def test_any_folder_name_will_do(tmp_path, name):
    assert f"# {name}\n" in card(tmp_path / name)


def test_a_published_run_is_loaded_from_where_it_is_published(tmp_path):
    text = card(tmp_path / "run", StableDiffusion("some/base", adapter=LoRA()), repo="me/mine")
    assert 'pipe.load_lora_weights("me/mine")' in text
    assert "# me/mine\n" in text


def test_a_second_card_replaces_the_first(tmp_path):
    card(tmp_path / "run", ema=0.5)
    assert "0.5" not in card(tmp_path / "run")


def test_parts_that_replaced_the_bases_own_are_named(tmp_path):
    full = card(tmp_path / "run", StableDiffusion("some/base", unet="some/start", vae="some/vae"))
    assert "also `vae=` with the one of `some/vae`: it" in full
    lora = card(tmp_path / "run", StableDiffusion("some/base", unet="some/start", adapter=LoRA()))
    assert "also `unet=` with the one of `some/start`: it" in lora
    assert "Give" not in card(tmp_path / "run", StableDiffusion("some/base", unet="some/start"))


def test_the_last_value_of_each_metric_is_shown_but_for_quarters(tmp_path):
    (tmp_path / "run").mkdir()
    lines = [{"step": 1, "loss": 0.7, "validation/loss": 0.69}, {"step": 2, "loss": 0.123456, "loss/t0-250": 9.0}]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    text = card(tmp_path / "run")
    assert "| step 2 |\n|---|---|\n| loss | 0.1235 |\n| validation/loss | 0.69 |\n\n" in text
    assert "t0-250" not in text


def test_the_evaluation_is_shown_with_its_interval(tmp_path):
    (tmp_path / "run").mkdir()
    pair = {"a": "tuned", "b": "base", "metric": "oracle", "win_rate": 0.9, "win_rate_low": 0.8, "win_rate_high": 1.0}
    models = {"base": {"attributes": 0.5, "scores": {}}, "tuned": {"attributes": 0.25, "scores": {}}}
    report = {"n_prompts": 7, "pairs": [pair], "models": models}
    (tmp_path / "run" / "report.json").write_text(json.dumps(report))
    text = card(tmp_path / "run")
    assert "- `tuned` wins 90.0% [80.0%, 100.0%] against `base` on 7 prompts, by oracle\n" in text
    assert "| model | attributes |\n|---|---|\n| base | 0.500 |\n| tuned | 0.250 |\n" in text


def test_the_newest_preview_is_shown_and_its_lower_row_becomes_the_gallery(tmp_path):
    (tmp_path / "run" / "previews").mkdir(parents=True)
    (tmp_path / "run" / "before_after.png").touch()
    grid = Image.new("RGB", (16, 16), "gray")  # two rows of two
    grid.paste("red", (0, 8, 8, 16))
    grid.paste("blue", (8, 8, 16, 16))
    grid.save(tmp_path / "run" / "previews" / "step-000010.png")
    grid.crop((0, 0, 16, 8)).save(tmp_path / "run" / "previews" / "step-000000.png")
    text = card(tmp_path / "run", prompts=["a: cat", "dog"])
    assert "](previews/step-000010.png)\n\n" in text
    assert "](before_after.png)\n" in text
    assert head(text)["widget"] == [
        {"text": "a: cat", "output": {"url": "images/0.png"}},
        {"text": "dog", "output": {"url": "images/1.png"}},
    ]
    for i, color in enumerate([(255, 0, 0), (0, 0, 255)]):
        assert Image.open(tmp_path / "run" / "images" / f"{i}.png").getcolors() == [(64, color)]


def test_a_damaged_preview_costs_the_gallery_and_not_the_card(tmp_path, caplog):
    (tmp_path / "run" / "previews").mkdir(parents=True)
    (tmp_path / "run" / "previews" / "step-000010.png").write_bytes(png()[:60])
    assert "some/base" in card(tmp_path / "run", prompts=("a", "b"))
    assert "step-000010.png is damaged" in caplog.text


def test_a_preview_of_the_base_alone_is_not_shown_as_the_result(tmp_path):
    (tmp_path / "run" / "previews").mkdir(parents=True)
    Image.new("RGB", (16, 8)).save(tmp_path / "run" / "previews" / "step-000000.png")
    text = card(tmp_path / "run", prompts=["a cat", "a dog"])
    assert "step-000000" not in text
    assert "widget" not in head(text)


def loads_what_was_tuned(folder, config: StableDiffusion, name: str) -> bool:
    model = config.load()
    trained(model.unet)
    model.save(folder / "run")
    names: dict = {}
    exec(snippet(card(folder / "run", config, pipeline=name)), names)
    return np.array_equal(drawn(names["pipe"]), drawn(model.pipeline()))


@pytest.mark.parametrize("adapter", [None, LoRA(rank=2, alpha=5.0)], ids=["full", "LoRA"])
@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableDiffusionXLPipeline"])
def test_the_snippet_loads_what_was_tuned(tmp_path, monkeypatch, name, adapter):
    monkeypatch.chdir(tmp_path)
    {"StableDiffusionPipeline": saved, "StableDiffusionXLPipeline": saved_xl}[name](tmp_path / "base")
    assert loads_what_was_tuned(tmp_path, StableDiffusion("base", adapter=adapter), name)


def test_the_snippet_applies_what_was_changed_in_the_scheduler(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "base")
    changed = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    assert loads_what_was_tuned(tmp_path, StableDiffusion("base", scheduler=changed), "StableDiffusionPipeline")


@pytest.mark.parametrize("adapter", [None, LoRA(rank=2)], ids=["full", "LoRA"])
def test_the_snippet_loads_a_base_that_is_a_single_file(tmp_path, monkeypatch, adapter):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "configs")
    save_single_file(pipeline(), tmp_path / "base.safetensors")
    config = StableDiffusion("base.safetensors", config="configs", adapter=adapter)
    assert loads_what_was_tuned(tmp_path, config, "StableDiffusionPipeline")


def test_revision_and_variant_of_the_base_are_loaded_again(tmp_path):
    text = card(tmp_path / "run", StableDiffusion("some/base", revision="1f2e", variant="fp16"))
    assert "from_pretrained(\"some/base\", unet=unet, revision='1f2e', variant='fp16')" in text


def test_encoded_pairs_are_told_with_what_they_were_encoded_from(tmp_path):
    (tmp_path / "encoding.json").write_text('{"source": "PickAPic(path=some/pairs)", "datasets": ["some/pairs"]}')
    text = card(tmp_path / "run", source=EncodedPairs(str(tmp_path)))
    assert f"Data: `EncodedPairs(path='{tmp_path}')`, encoded from `PickAPic(path=some/pairs)`" in text
    assert head(text)["datasets"] == ["some/pairs"]
