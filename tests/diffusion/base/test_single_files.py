"""Whole bases and parts in one file: what is absent, damaged or of another architecture, part by part."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from single_file import save_single_file
from tiny import drawn, moved, pipeline, pipeline_xl, saved, saved_xl, unet, vae

from diffpo.core.refusal import Refusal
from diffpo.diffusion.base.single_files import Checkpoint, is_single
from diffpo.diffusion.model.pipeline import load_base

MADE = {"sd": pipeline, "xl": pipeline_xl}
PREFIXES = {
    ("sd", "UNet"): "model.diffusion_model.",
    ("sd", "VAE"): "first_stage_model.",
    ("sd", "text encoder"): "cond_stage_model.",
    ("xl", "UNet"): "model.diffusion_model.",
    ("xl", "VAE"): "first_stage_model.",
    ("xl", "text encoder"): "conditioner.embedders.0.",
    ("xl", "text encoder 2"): "conditioner.embedders.1.",
}
REMEDIES = {"UNet": "name one in --base.unet", "VAE": "name one in --base.vae"}
parts = pytest.mark.parametrize(("kind", "what"), PREFIXES)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder and a single file of each kind, of the same weights."""
    root = tmp_path_factory.mktemp("single")
    saved(root / "sd")
    saved_xl(root / "xl")
    for kind, made in MADE.items():
        save_single_file(made(), root / f"{kind}.safetensors")
    return root


def rewritten(root: Path, kind: str, file: Path, change, metadata: dict[str, str] | None = None) -> str:
    """A changed copy of the single file."""
    save_file(change(load_file(root / f"{kind}.safetensors")), file, metadata)
    return str(file)


def load(root: Path, kind: str, file: str, **options):
    return load_base(file, config=str(root / kind), **options)


def test_what_is_taken_for_a_single_file(tmp_path):
    (tmp_path / "vae.pt").touch()
    assert is_single("no/such.safetensors")
    assert is_single(str(tmp_path / "vae.pt"))
    assert not is_single(str(tmp_path))
    assert not is_single("someone/base")


@parts
def test_a_file_without_a_part_says_so_and_where_else_to_take_it_from(root, tmp_path, kind, what):
    prefix = PREFIXES[kind, what]
    file = rewritten(
        root, kind, tmp_path / "x.safetensors", lambda w: {n: t for n, t in w.items() if not n.startswith(prefix)}
    )
    remedy = REMEDIES.get(what, "name a whole base in --base.path, and this file in --base.unet")
    with pytest.raises(Refusal, match=f"x.safetensors holds no {what.removesuffix(' 2')}; {remedy}.") as caught:
        load(root, kind, file)
    assert "\n" not in str(caught.value)


@parts
def test_a_file_that_lacks_one_weight_names_it(root, tmp_path, kind, what):
    prefix = PREFIXES[kind, what]
    last = max(n for n in load_file(root / f"{kind}.safetensors") if n.startswith(prefix) and "logit" not in n)
    file = rewritten(root, kind, tmp_path / "x.safetensors", lambda w: {n: t for n, t in w.items() if n != last})
    with pytest.raises(Refusal, match=r"x.safetensors (does not hold a .*the first is|holds a .* lacks) ") as caught:
        load(root, kind, file)
    assert "\n" not in str(caught.value)


@parts
def test_a_weight_of_another_shape_is_named(root, tmp_path, kind, what):
    prefix = PREFIXES[kind, what]

    def wider(weights):
        name = min(n for n in weights if n.startswith(prefix) and n.endswith(".bias") and "in_proj" not in n)
        return weights | {name: torch.cat([weights[name]] * 2)}

    with pytest.raises(Refusal, match=r"x.safetensors does not hold a .* the first is .*, which has shape \(\d+,\)"):
        load(root, kind, rewritten(root, kind, tmp_path / "x.safetensors", wider))


DEEPER = {
    "sd": "cond_stage_model.transformer.text_model.encoder.layers.0.",
    "xl": "conditioner.embedders.1.model.transformer.resblocks.1.",
}


@pytest.mark.parametrize("kind", DEEPER)
def test_a_text_encoder_with_more_layers_than_the_config_is_refused(root, tmp_path, kind):
    def deeper(weights):
        layer, _, number = DEEPER[kind].rstrip(".").rpartition(".")
        more = {n.replace(DEEPER[kind], f"{layer}.{int(number) + 1}."): t.clone() for n, t in weights.items()}
        return weights | more

    with pytest.raises(Refusal, match=r"does not hold a text_encoder.* the first is .*layers"):
        load(root, kind, rewritten(root, kind, tmp_path / "x.safetensors", deeper))


@pytest.mark.parametrize("name", ["input_blocks.9.0.op.weight", "input_blocks.1.2.weight", "control.bias"])
def test_a_unet_with_weights_that_have_no_place_is_refused(root, tmp_path, name):
    more = {f"model.diffusion_model.{name}": torch.ones(3)}
    with pytest.raises(Refusal, match=r"x.safetensors .*(have no place|lacks|do not fit)"):
        load(root, "sd", rewritten(root, "sd", tmp_path / "x.safetensors", lambda w: w | more))


WRAPPED = [("sd", wrapper) for wrapper in ("state_dict.", "_orig_mod.", "module.", "policy.", "module._orig_mod.")]


@pytest.mark.parametrize(("kind", "wrapper"), [*WRAPPED, ("xl", "state_dict.")])
def test_wrappers_are_taken_off_and_told_and_nothing_else_changes(root, tmp_path, kind, wrapper, caplog):
    file = rewritten(root, kind, tmp_path / "x.safetensors", lambda w: {wrapper + n: t for n, t in w.items()})
    ours, plain = (load(root, kind, path) for path in (file, str(root / f"{kind}.safetensors")))
    for name, part in plain.components.items():
        if isinstance(part, torch.nn.Module):
            there = ours.components[name].state_dict()
            assert all(torch.equal(there[key], tensor) for key, tensor in part.state_dict().items())
    [told] = caplog.messages
    assert f"lost what a wrapper had put into them, e.g. {wrapper}" in told


def test_a_moving_average_alone_is_told(root, tmp_path):
    prefix = PREFIXES["sd", "UNet"]

    def averaged(weights):
        average = {f"model_ema.{n.removeprefix('model.').replace('.', '')}": t for n, t in weights.items()}
        return average | {n: t.clone() for n, t in weights.items() if not n.startswith(prefix)}

    with pytest.raises(Refusal, match=r"holds no UNet, only a moving average \(model_ema.\); name one in --base.unet"):
        load(root, "sd", rewritten(root, "sd", tmp_path / "x.safetensors", averaged))


def test_a_moving_average_beside_the_weights_changes_nothing(root, tmp_path):
    file = rewritten(root, "sd", tmp_path / "x.safetensors", lambda w: w | {"model_ema.decay": torch.tensor(0.9)})
    assert np.array_equal(drawn(load(root, "sd", file)), drawn(pipeline()))


def test_a_pickled_file_with_its_weights_under_a_key_is_read(root, tmp_path):
    torch.save({"state_dict": load_file(root / "sd.safetensors"), "epoch": 3}, tmp_path / "x.ckpt")
    assert np.array_equal(drawn(load(root, "sd", str(tmp_path / "x.ckpt"))), drawn(pipeline()))


@pytest.mark.parametrize("content", ["list", "tensor", "object"])
def test_a_pickled_file_of_something_else_is_one_line(root, tmp_path, content):
    torch.save({"list": [1, 2], "tensor": torch.ones(3), "object": Path}[content], tmp_path / "x.ckpt")
    with pytest.raises(Refusal, match="x.ckpt does not hold a checkpoint of a whole pipeline that can be read"):
        load(root, "sd", str(tmp_path / "x.ckpt"))


def test_half_precision_is_read_in_fp32(root, tmp_path):
    file = rewritten(root, "sd", tmp_path / "x.safetensors", lambda w: {n: t.half() for n, t in w.items()})
    loaded = load(root, "sd", file)
    networks = (loaded.unet, loaded.vae, loaded.text_encoder)
    assert {p.dtype for network in networks for p in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("layout", ["within", "bare", "diffusers"])
@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_part_in_a_single_file_needs_neither_hub_nor_config(root, tmp_path, part, layout):
    other = pipeline()
    moved(vars(other)[part])
    file = tmp_path / "x.safetensors"
    save_single_file(other, file)
    prefix = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}[part]
    if layout == "bare":
        save_file({n.removeprefix(prefix): t for n, t in load_file(file).items() if n.startswith(prefix)}, file)
    if layout == "diffusers":
        save_file(vars(other)[part].state_dict(), file)
    want = vars(other)[part].state_dict()
    for config in (None, str(root / "sd")):
        loaded = vars(load_base(str(root / "sd"), config=config, **{part: str(file)}))[part].state_dict()
        assert loaded.keys() == want.keys()
        assert all(torch.equal(loaded[name], want[name]) for name in want)


def test_the_config_of_a_part_in_a_single_file_can_be_named(root, tmp_path):
    wide = unet(
        cross_attention_dim=48,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=56,
    )
    save_file(wide.state_dict(), tmp_path / "unet.safetensors")
    with pytest.raises(Refusal, match="unet.safetensors does not hold a UNet: .* first is add_embedding"):
        load_base(str(root / "sd"), unet=str(tmp_path / "unet.safetensors"))
    with pytest.raises(Refusal, match="UNet takes 4 channels and added condition text_time"):
        load_base(str(root / "sd"), unet=str(tmp_path / "unet.safetensors"), config=str(root / "xl"))


def test_a_part_that_is_no_such_part_is_refused(root, tmp_path):
    save_file(vae().state_dict(), tmp_path / "vae.safetensors")
    with pytest.raises(Refusal, match="vae.safetensors holds no UNet; name one in --base.unet"):
        Checkpoint.of(str(tmp_path / "vae.safetensors")).unet(unet().config)
    with pytest.raises(Refusal, match="Cannot load a VAE from 'no/such.safetensors'"):
        load_base(str(root / "sd"), vae="no/such.safetensors")


def test_weights_that_a_base_replaces_are_not_asked_of_the_file(root, tmp_path):
    prefix = PREFIXES["sd", "VAE"]
    file = rewritten(
        root, "sd", tmp_path / "x.safetensors", lambda w: {n: t for n, t in w.items() if not n.startswith(prefix)}
    )
    assert np.array_equal(drawn(load(root, "sd", file, vae=str(root / "sd"))), drawn(pipeline()))


MARKS = {
    "v_pred": ("prediction_type", "v_prediction"),
    "ztsnr": ("rescale_betas_zero_snr", True),
}


@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_of_how_it_was_trained_is_refused_until_the_scheduler_says_the_same(root, tmp_path, mark):
    file = rewritten(root, "sd", tmp_path / "x.safetensors", lambda w: w | {mark: torch.tensor([])})
    name, value = MARKS[mark]
    said = f"trained with {name} {value} .tensor {mark}., .* set --base.scheduler.{name} {str(value).lower()}, or "
    with pytest.raises(Refusal, match=said):
        load(root, "sd", file)
    assert load(root, "sd", file, scheduler={name: value}).scheduler.config[name] == value
    usual = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}[name]
    assert load(root, "sd", file, scheduler={name: usual}).scheduler.config[name] == usual


def test_a_mark_in_the_file_of_another_unet_counts_too(root, tmp_path):
    save_file(unet().state_dict() | {"v_pred": torch.tensor([])}, tmp_path / "unet.safetensors")
    with pytest.raises(Refusal, match="unet.safetensors says that it was trained with prediction_type v_prediction"):
        load_base(str(root / "sd"), unet=str(tmp_path / "unet.safetensors"))


def test_metadata_count_too(root, tmp_path):
    spec = {"modelspec.prediction_type": "v"}
    file = rewritten(root, "sd", tmp_path / "x.safetensors", dict, spec)
    with pytest.raises(Refusal, match=r"prediction_type v_prediction \(metadata modelspec.prediction_type\)"):
        load(root, "sd", file)
    load(root, "sd", rewritten(root, "sd", tmp_path / "y.safetensors", dict, {"modelspec.prediction_type": "epsilon"}))
