import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_loras
import torch
import yaml
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file

from diffpo.core.refusal import Refusal
from diffpo.diffusion.evaluation.model import ComparedModel, list_warnings, require_distinct, stamp_files
from diffpo.diffusion.model.kohya import export_kohya
from diffpo.diffusion.model.loading import StableDiffusion
from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.pipelines.negative import StableDiffusionNegativePipeline
from diffpo.lab.shapes.scorer import Oracle
from diffpo.lora.layers import require_put


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    tiny.saved(root / "base")
    tiny.saved_xl(root / "xl")
    tiny.moved(tiny.unet()).save_pretrained(root / "run" / "unet")
    tiny.moved(tiny.unet(), seed=1).save_pretrained(root / "bad" / "unet")
    tiny.unet(cross_attention_dim=24).save_pretrained(root / "wide" / "unet")
    loaded = StableDiffusion(str(root / "base"), adapter=LoRA(rank=2)).load()
    tiny.trained(loaded.unet)
    loaded.save(root / "lora")
    return root


def test_a_base_is_loaded_as_it_is(world):
    plain = StableDiffusionPipeline.from_pretrained(world / "base")
    np.testing.assert_array_equal(tiny.drawn(ComparedModel("base", str(world / "base")).load()), tiny.drawn(plain))


@pytest.mark.parametrize("part", ["unet", "lora"])
def test_tuned_parts_are_put_in(world, part):
    tuned = ComparedModel(
        "tuned", str(world / "base"), **{part: str(world / {"unet": "run", "lora": "lora"}[part])}
    ).load()
    plain = tiny.pipeline()
    if part == "unet":
        plain.unet = tiny.moved(tiny.unet())
    else:
        plain.load_lora_weights(world / "lora")
    np.testing.assert_array_equal(tiny.drawn(tuned), tiny.drawn(plain))


def test_weights_for_another_architecture_name_what_does_not_fit(world):
    with pytest.raises(Refusal, match=r"attn2.to_k.weight takes states of width 24, they give 16"):
        ComparedModel("wrong", str(world / "base"), unet=str(world / "wide")).load()
    with pytest.raises(Refusal, match="added condition text_time"):
        ComparedModel("wrong", str(world / "base"), unet=str(world / "xl")).load()


def test_a_lora_of_another_architecture_names_what_does_not_fit(world):
    with pytest.raises(Refusal, match=r"lora was trained for another"):
        ComparedModel("wrong", str(world / "xl"), lora=str(world / "lora")).load()
    with pytest.raises(Refusal, match="Cannot load a LoRA from .*nowhere"):
        ComparedModel("wrong", str(world / "base"), lora=str(world / "nowhere")).load()


@pytest.mark.parametrize("kind", ["base", "xl"])
@pytest.mark.parametrize("layout", ["kohya", "kohya for SDXL", "attention processors", "no network", "compiled"])
def test_a_lora_of_any_trainer_is_evaluated(world, tmp_path, kind, layout):
    """Diffusers' own loader takes some of these, and drops layers or alphas of others."""
    layers = tiny_loras.layers_of(tiny.unet_xl() if kind == "xl" else tiny.unet())
    lora = tiny_loras.saved_layers(tmp_path / "a.safetensors", layers, layout)
    tuned = ComparedModel("tuned", str(world / kind), lora=lora).load()
    require_put(tuned.unet, layers, "lora")


def test_our_own_export_is_evaluated_as_the_run_it_came_from(world, tmp_path):
    export_kohya(str(world / "lora"), tmp_path / "out.safetensors", torch.float32)
    found, run = (
        ComparedModel("a", str(world / "base"), lora=str(path))
        for path in (tmp_path / "out.safetensors", world / "lora")
    )
    np.testing.assert_array_equal(tiny.drawn(found.load()), tiny.drawn(run.load()))


@pytest.mark.parametrize("kind", ["base", "xl"])
@pytest.mark.parametrize("layout", ["peft", "kohya"])
def test_what_a_lora_does_to_text_encoders_is_evaluated_too(world, tmp_path, kind, layout):
    plain = ComparedModel("plain", str(world / kind)).load()
    encoders = ["text_encoder", "text_encoder_2"][: 1 + (kind == "xl")]
    parts = {name: tiny_loras.layers_of(plain.components[name], ("q_proj", "fc2"), alphas=(2.0,)) for name in encoders}
    unet = tiny_loras.layers_of(plain.unet, ("to_q",), alphas=(2.0,))
    state = tiny_loras.written(unet, tiny_loras.LAYOUTS["kohya"] if layout == "kohya" else tiny_loras.PEFT)
    for number, (name, layers) in enumerate(parts.items()):
        before = f"lora_te{number + 1 if kind == 'xl' else ''}_"
        names = tiny_loras.kohya(before, False) if layout == "kohya" else tiny_loras.peft_of(f"{name}.")
        state |= tiny_loras.written(layers, names)
    save_file(state, tmp_path / "a.safetensors")
    tuned = ComparedModel("tuned", str(world / kind), lora=str(tmp_path / "a.safetensors")).load()
    for name, layers in {"unet": unet, **parts}.items():
        require_put(tuned.components[name], layers, "lora")
    with torch.no_grad():
        ids = torch.arange(6)[None]
        assert not torch.allclose(tuned.text_encoder(ids)[0], plain.text_encoder(ids)[0], atol=1e-3)


def test_a_second_text_encoder_that_the_base_lacks_is_told(world, tmp_path):
    extra = {f"lora_te2_fc1.lora_{side}.weight": torch.ones(2, 2) for side in ("down", "up")}
    lora = tiny_loras.saved_layers(tmp_path / "a.safetensors", tiny_loras.layers_of(tiny.unet()), extra=extra)
    with pytest.raises(
        Refusal, match=r"\(2 weights, first lora_te2_fc1.*\), which StableDiffusionPipeline does not have"
    ):
        ComparedModel("wrong", str(world / "base"), lora=lora).load()


def test_the_negative_half_is_the_mix_of_base_positive_and_negative(world):
    """With a UNet, a LoRA and another UNet by hand."""
    parts = {"unet": str(world / "run"), "lora": str(world / "lora"), "negative": str(world / "bad")}
    model = ComparedModel("away", str(world / "base"), **parts, alpha=0.5, mix=0.25)
    found = model.load().negative_unet.state_dict()
    run, bad = (UNet2DConditionModel.from_pretrained(world / name / "unet").state_dict() for name in ("run", "bad"))
    fused = tiny.pipeline()
    fused.load_lora_weights(world / "lora")
    fused.fuse_lora()
    fused.unload_lora_weights()
    lora = fused.unet.state_dict()
    for name, theta in tiny.unet().state_dict().items():
        positive = run[name] + lora[name] - theta
        by_hand = theta + 0.5 * (positive - theta) + 0.25 * (bad[name] - theta)
        torch.testing.assert_close(found[name], by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["base", "xl"])
def test_a_negative_of_no_weight_draws_the_positives_picture(world, kind):
    model = ComparedModel("away", str(world / kind), negative=str(world / kind), mix=0.0)
    plain = ComparedModel("plain", str(world / kind)).load()
    np.testing.assert_allclose(tiny.drawn(model.load()).astype(int), tiny.drawn(plain).astype(int), atol=1)


def test_guidance_leads_away_from_the_negative(world):
    model = ComparedModel("away", str(world / "base"), unet=str(world / "run"), negative=str(world / "bad"), alpha=0.0)
    by_hand = StableDiffusionNegativePipeline.from_pipe(
        ComparedModel("run", str(world / "base"), unet=str(world / "run")).load()
    )
    by_hand.load_negative(str(world / "bad"))
    np.testing.assert_array_equal(tiny.drawn(model.load()), tiny.drawn(by_hand))


def test_a_negative_is_part_of_what_a_model_is(world):
    plain = ComparedModel("a", "x", unet="u")
    away = replace(plain, negative=str(world / "bad"), mix=0.5)
    assert "alpha" not in plain.identity["model"]
    assert (away.identity["model"]["alpha"], away.identity["model"]["mix"]) == (1.0, 0.5)
    assert away.identity["files"] != plain.identity["files"]
    assert away.source == f"x + UNet u + negative {world / 'bad'} (alpha 1, mix 0.5)"
    assert away.runs == ["u", str(world / "bad")]


def test_a_negative_of_another_architecture_names_what_does_not_fit(world):
    with pytest.raises(Refusal, match=r"wide is for another architecture: its .*\(8, 24\), the base's \(8, 16\)"):
        ComparedModel("wrong", str(world / "base"), negative=str(world / "wide")).load()


@pytest.mark.parametrize("both", [{}, {"base": "a", "pictures": "b"}])
def test_a_model_is_drawn_with_or_is_finished(both):
    with pytest.raises(Refusal, match="'x' needs a base to draw with, or a folder of pictures"):
        ComparedModel("x", **both)


@pytest.mark.parametrize("name", ["", "a/b", "..", "../a", ".hidden"])
def test_a_name_is_the_name_of_a_folder(name):
    with pytest.raises(Refusal, match="name of a model"):
        ComparedModel(name, base="a")


def test_names_are_distinct_and_there_is_one():
    with pytest.raises(Refusal, match="Two models are called 'a'"):
        require_distinct([ComparedModel("a", "x"), ComparedModel("a", "y")], Path("out"))
    with pytest.raises(Refusal, match="no models to compare"):
        require_distinct([], Path("out"))


@pytest.mark.parametrize(
    "given",
    [
        {"base": "runs/a"},
        {"base": "x", "unet": "runs/a"},
        {"base": "x", "negative": "runs/a"},
        {"pictures": "runs/b/../a/"},
    ],
)
def test_pictures_do_not_go_where_a_model_is(given):
    with pytest.raises(Refusal, match="is where the pictures of 'a' would go; choose another output_dir"):
        require_distinct([ComparedModel("a", **given)], Path("runs"))


def pictures(folder: Path, names: list[str], listing: list[dict] | None = None) -> ComparedModel:
    folder.mkdir()
    for name in names:
        tiny.picture(size=(8, 8)).save(folder / name)
    if listing is not None:
        (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, listing)))
    return ComparedModel("theirs", pictures=str(folder))


def test_finished_pictures_are_taken_by_name(tmp_path):
    model = pictures(tmp_path / "a", ["00001.png", "00000.jpg", "00002.webp"])
    (tmp_path / "a" / "notes.txt").touch()
    assert [file.name for file in model.files(["x", "y", "z"], 1)] == ["00000.jpg", "00001.png", "00002.webp"]


def test_a_listing_says_which_picture_is_whose(tmp_path):
    listing = [{"prompt": "x", "file": "b.png"}, {"prompt": "x", "file": "a.png"}]
    model = pictures(tmp_path / "a", ["a.png", "b.png"], listing)
    assert [file.name for file in model.files(["x"], 2)] == ["b.png", "a.png"]
    with pytest.raises(Refusal, match="Picture 0 of 'theirs' was drawn for 'x', not 'y'; compare on the same prompts"):
        model.files(["y"], 2)


@pytest.mark.parametrize(("prompts", "per_prompt"), [(["x"], 1), (["x", "y"], 2), (["x", "y", "z", "w"], 1)])
def test_pictures_and_prompts_of_different_number_are_refused(tmp_path, prompts, per_prompt):
    model = pictures(tmp_path / "a", ["0.png", "1.png", "2.png"])
    with pytest.raises(Refusal, match=r"has 3 pictures in .* need \d; set prompts.count or sampling.pictures"):
        model.files(prompts, per_prompt)


def test_other_weights_at_the_same_place_are_another_model(world, tmp_path):
    tiny.unet().save_pretrained(tmp_path / "run" / "unet")
    model = ComparedModel("tuned", str(world / "base"), unet=str(tmp_path / "run"))
    before = model.identity
    assert ComparedModel("other", str(world / "base"), unet=str(tmp_path / "run")).identity == before
    (tmp_path / "run" / "checkpoint-000001").mkdir()
    (tmp_path / "run" / "checkpoint-000001" / "model.safetensors").touch()
    assert model.identity == before
    tiny.unet(1).save_pretrained(tmp_path / "run" / "unet")
    assert model.identity != before


def trained_on(root: Path, rows: list, scorer: str = "oracle") -> ComparedModel:
    """A run on pairs that a scorer labelled."""
    (root / "data").mkdir()
    identity = Oracle().identity | {"scorer": scorer}
    (root / "data" / "scores.json").write_text(json.dumps(identity | {"min": 0, "max": 1, "count": 2}))
    source = {"class_path": "diffpo.data.Columns", "init_args": {"path": str(root / "data")}}
    mixed = {"class_path": "diffpo.data.Mixed", "init_args": {"sources": [source]}}
    (root / "config.yaml").write_text(yaml.safe_dump({"data": {"source": mixed, "rows": rows}}))
    return ComparedModel("tuned", "base", unet=str(root))


def test_a_judge_that_labelled_the_training_pairs_is_told(tmp_path):
    model = trained_on(tmp_path, ["diffpo.data.DropTies", {"class_path": "diffpo.data.ScoreLabel"}])
    [told] = list_warnings({"base": [], "tuned": model.runs}, [Oracle()])
    assert told.startswith("tuned was trained on labels of oracle (diffpo.tinyworld.oracle)")
    assert "judge it by another" in told


def test_scores_that_no_label_came_from_and_other_scorers_do_not_matter(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    unlabeled = trained_on(tmp_path / "a", ["diffpo.data.DropTies"])
    other = trained_on(tmp_path / "b", ["diffpo.data.ScoreLabel"], "pickscore")
    assert list_warnings({"a": unlabeled.runs, "b": other.runs}, [Oracle()]) == []


@pytest.mark.parametrize("text", ["", "data: [", "Not found", "data: 3", "data: {rows: [}", "\x00"])
def test_a_damaged_config_of_a_run_is_told(tmp_path, text, caplog):
    (tmp_path / "config.yaml").write_text(text)
    assert list_warnings({"a": [str(tmp_path)]}, [Oracle()]) == []
    assert f"{tmp_path}/config.yaml is damaged, so nothing tells whether a scorer labelled its pairs" in caplog.text


def test_the_files_of_a_lora_are_found_by_their_run(tmp_path):
    trained_on(tmp_path, ["diffpo.data.ScoreLabel"])
    (tmp_path / "pytorch_lora_weights.safetensors").touch()
    lora = ComparedModel("a", "base", lora=str(tmp_path / "pytorch_lora_weights.safetensors"))
    assert len(list_warnings({"a": lora.runs}, [Oracle()])) == 1


def test_a_stamp_tells_files_that_were_written_anew(tmp_path):
    (tmp_path / "a.png").write_bytes(b"one")
    files = [tmp_path / "a.png", tmp_path / "absent.png"]
    before = stamp_files(files)
    assert stamp_files(files) == before
    (tmp_path / "a.png").write_bytes(b"three")
    assert stamp_files(files) != before
