import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from single_file import save_single_file
from tiny import drawn, moved, pipeline, pipeline_xl, saved, saved_xl, unet, unet_xl

from diffpo.core.refusal import Refusal
from diffpo.diffusion.model.lora import LoRA
from diffpo.diffusion.model.pipeline import load_base


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("bases")
    return {"sd": saved(root / "sd"), "xl": saved_xl(root / "xl")}


def weights(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def one_line(error) -> bool:
    return "\n" not in str(error.value)


@pytest.mark.parametrize(("kind", "made"), [("sd", pipeline), ("xl", pipeline_xl)])
def test_a_folder_is_loaded_as_what_it_is(bases, kind, made):
    loaded = load_base(bases[kind])
    assert type(loaded) is type(made())
    assert np.array_equal(drawn(loaded), drawn(made()))


@pytest.mark.parametrize(("kind", "made"), [("sd", pipeline), ("xl", pipeline_xl)])
def test_a_single_file_with_a_folder_of_configs_draws_what_the_folder_draws(bases, tmp_path, kind, made):
    pipe = made()
    moved(pipe.unet)
    moved(pipe.text_encoder)
    file = save_single_file(pipe, tmp_path / "model.safetensors")
    assert np.array_equal(drawn(load_base(file, config=bases[kind])), drawn(pipe))


def test_parts_of_a_single_file_can_be_replaced(bases, tmp_path):
    file = save_single_file(pipeline(), tmp_path / "model.safetensors")
    other = moved(unet())
    other.save_pretrained(tmp_path / "unet")
    loaded = load_base(file, unet=str(tmp_path), config=bases["sd"])
    assert torch.equal(weights(loaded.unet), weights(other))


def test_a_single_file_without_configs_and_network_says_how_to_go_on(tmp_path):
    file = save_single_file(pipeline(), tmp_path / "model.safetensors")
    with pytest.raises(Refusal, match=r"model.safetensors could not be read.*--base.config") as caught:
        load_base(file)
    assert one_line(caught)


def test_a_single_file_of_another_architecture_is_refused(bases, tmp_path):
    file = save_single_file(pipeline(), tmp_path / "model.safetensors")
    with pytest.raises(Refusal, match=r"model.safetensors") as caught:
        load_base(file, config=bases["xl"])
    assert one_line(caught)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64], ids=["empty", "zeros"])
def test_a_damaged_single_file_is_one_line(bases, tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(Refusal, match=r"model.safetensors") as caught:
        load_base(str(tmp_path / "model.safetensors"), config=bases["sd"])
    assert one_line(caught)


@pytest.mark.parametrize("place", ["", "unet"])
def test_another_unet_can_be_named(bases, tmp_path, place):
    other = moved(unet())
    other.save_pretrained(tmp_path / place)
    assert torch.equal(weights(load_base(bases["sd"], unet=str(tmp_path)).unet), weights(other))


@pytest.mark.parametrize("place", ["", "vae"])
def test_another_vae_can_be_named(bases, tmp_path, place):
    other = moved(pipeline().vae)
    other.save_pretrained(tmp_path / place)
    assert torch.equal(weights(load_base(bases["sd"], vae=str(tmp_path)).vae), weights(other))


def test_settings_of_the_scheduler_can_be_replaced(bases):
    plain, other = (load_base(bases["sd"], scheduler=changed).scheduler for changed in (None, {"beta_end": 0.02}))
    assert type(other) is type(plain)
    assert other.config == plain.config | {"beta_end": 0.02}


def test_a_setting_that_the_scheduler_lacks_is_refused_with_those_it_has(bases):
    with pytest.raises(Refusal, match=r"base.scheduler names predicts; DDIMScheduler has beta_end.*prediction_type"):
        load_base(bases["sd"], scheduler={"predicts": "v"})


@pytest.mark.parametrize("wrong", [{"beta_start": "abc"}, {"num_train_timesteps": -1}, {"beta_schedule": "none"}])
def test_a_value_that_the_scheduler_does_not_take_is_refused(bases, wrong):
    with pytest.raises(Refusal, match=f"DDIMScheduler does not take base.scheduler .*{next(iter(wrong))}"):
        load_base(bases["sd"], scheduler=wrong)


def test_inpainting_is_refused(bases, tmp_path):
    unet(in_channels=9).save_pretrained(tmp_path)
    with pytest.raises(Refusal, match=r"UNet takes 9 channels.*diffpo tunes text-to-image"):
        load_base(bases["sd"], unet=str(tmp_path))


@pytest.mark.parametrize(("kind", "other"), [("sd", unet_xl), ("xl", unet)])
def test_a_unet_of_the_other_family_is_refused(bases, tmp_path, kind, other):
    other().save_pretrained(tmp_path)
    with pytest.raises(Refusal, match="added condition .*; diffpo tunes text-to-image"):
        load_base(bases[kind], unet=str(tmp_path))


def test_another_kind_of_pipeline_is_refused(tmp_path):
    network = UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        attention_head_dim=2,
    )
    DDPMPipeline(network, DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(Refusal, match="is a DDPMPipeline; diffpo tunes text-to-image"):
        load_base(str(tmp_path))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"path": "no/such"}, "Cannot load a diffusers pipeline from 'no/such'"),
        ({"path": "no/such.safetensors"}, "Cannot load a checkpoint of a whole pipeline from 'no/such.safetensors'"),
        ({"unet": "no/such"}, "Cannot load a UNet from 'no/such'"),
        ({"vae": "no/such"}, "Cannot load a VAE from 'no/such'"),
        ({"path": "runwayml/stable-diffusion-v1-5"}, "was deleted from the hub; use stable-diffusion-v1-5/"),
    ],
)
def test_what_is_missing_is_one_line(bases, changed, message):
    with pytest.raises(Refusal, match=message) as caught:
        load_base(**{"path": bases["sd"]} | changed)
    assert one_line(caught)


def test_a_folder_without_a_pipeline_is_one_line(tmp_path):
    with pytest.raises(Refusal, match="does not hold a diffusers pipeline") as caught:
        load_base(str(tmp_path))
    assert one_line(caught)


def test_a_unet_saved_with_its_adapters_is_refused(bases, tmp_path):
    carrier = unet()
    LoRA(rank=2).attach(carrier)
    carrier.save_pretrained(tmp_path / "unet")
    with pytest.raises(Refusal, match=f"{tmp_path} does not hold a UNet .*saved with adapters.*attn1.*fuse_lora"):
        load_base(bases["sd"], unet=str(tmp_path))


@pytest.mark.parametrize("single", [False, True], ids=["folder", "file"])
@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_parts_that_are_not_needed_are_left_out(bases, tmp_path, kind, single):
    path, config = bases[kind], None
    if single:
        path = save_single_file({"sd": pipeline, "xl": pipeline_xl}[kind](), tmp_path / "model.safetensors")
        config = bases[kind]
    denoises = load_base(path, config=config, vae="no/such/vae", encodes=False)
    absent = {name for name, part in denoises.components.items() if part is None}
    assert {"vae", "text_encoder", "tokenizer"} <= absent
    assert denoises.unet is not None
    encodes = load_base(path, config=config, unet="no/such/unet", denoises=False)
    assert encodes.unet is None
    assert encodes.vae is not None


NETWORKS = [("sd", part) for part in ("unet", "vae", "text_encoder")]
NETWORKS += [("xl", part) for part in ("unet", "vae", "text_encoder", "text_encoder_2")]


def rewritten(folder: Path, change) -> None:
    """The weights of one part, changed."""
    [file] = folder.glob("*.safetensors")
    weights = change(load_file(file))
    file.unlink()
    save_file(weights, file, {"format": "pt"})


@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_a_base_whose_parts_were_saved_in_wrappers_draws_what_the_base_draws(bases, tmp_path, kind, caplog):
    shutil.copytree(bases[kind], tmp_path / "base")
    parts = [part for of, part in NETWORKS if of == kind]
    for part, wrapper in zip(parts, ("_orig_mod.", "module.", "policy.", "module._orig_mod."), strict=False):
        rewritten(tmp_path / "base" / part, lambda w, wrapper=wrapper: {wrapper + n: t for n, t in w.items()})
    loaded = load_base(str(tmp_path / "base"))
    assert np.array_equal(drawn(loaded), drawn(load_base(bases[kind])))
    assert len(caplog.messages) == len(parts)


@pytest.mark.parametrize(("kind", "part"), NETWORKS)
def test_a_part_that_lacks_a_weight_is_named_with_it(bases, tmp_path, kind, part):
    shutil.copytree(bases[kind], tmp_path / "base")
    rewritten(tmp_path / "base" / part, lambda w: {n: t for n, t in w.items() if n != min(w)})
    what = {"unet": "UNet", "vae": "VAE"}.get(part, part)
    with pytest.raises(Refusal, match=f"{tmp_path}/base does not hold a {what}: 1 of its .*, the first is ") as caught:
        load_base(str(tmp_path / "base"))
    assert one_line(caught)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n"
CONTENTS = {"gone": None, "empty": "", "object": "{}", "list": "[]", "null": "null", "pointer": POINTER}
FILES = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", FILES)
def test_half_a_folder_is_one_line(bases, tmp_path, name, content):
    shutil.copytree(bases["sd"], tmp_path / "base")
    file = tmp_path / "base" / name
    file.unlink() if content == "gone" else file.write_text(CONTENTS[content])
    with pytest.raises(Refusal, match=f"{tmp_path}/base") as caught:
        load_base(str(tmp_path / "base"))
    assert one_line(caught)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "entry", [None, [None, None], ["my_library", "Encoder"], ["transformers", "NoSuchModel"], "x"]
)
def test_a_text_encoder_that_transformers_does_not_have_is_refused(bases, tmp_path, entry):
    shutil.copytree(bases["sd"], tmp_path / "base")
    index = tmp_path / "base" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"text_encoder": entry}))
    with pytest.raises(Refusal, match="names no text_encoder of transformers in model_index.json"):
        load_base(str(tmp_path / "base"))


@pytest.mark.parametrize(
    "told",
    [
        {"time_cond_proj_dim": 8},
        {"class_embed_type": "timestep"},
        {"num_class_embeds": 3},
        {"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 16},
    ],
    ids=lambda told: next(iter(told)),
)
def test_a_unet_that_is_told_more_than_is_told_here_is_refused(bases, tmp_path, told):
    """Guidance-distilled ones, for example, that are told a guidance scale."""
    unet(**told).save_pretrained(tmp_path)
    with pytest.raises(Refusal, match=f"has a UNet that is told more .* and prompt .{next(iter(told))} "):
        load_base(bases["sd"], unet=str(tmp_path))


def test_a_variant_that_only_some_parts_have_is_taken_of_them(bases, tmp_path, caplog):
    shutil.copytree(bases["sd"], tmp_path / "base")
    [file] = (tmp_path / "base" / "unet").glob("*.safetensors")
    file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    loaded = load_base(str(tmp_path / "base"), variant="fp16")
    assert np.array_equal(drawn(loaded), drawn(load_base(bases["sd"])))
    assert [message.split(" has no")[0].rsplit("/")[-1] for message in caplog.messages] == ["vae", "text_encoder"]
    with pytest.raises(Refusal, match="its weights are of variant fp16; name it in --base.variant"):
        load_base(str(tmp_path / "base"))


@pytest.mark.parametrize("kind", ["CLIPTextModel", "CLIPTextModelWithProjection"])
def test_an_encoder_of_a_class_that_its_weights_are_not_of_is_refused(bases, tmp_path, kind):
    """The pooled states of SDXL come from a projection, which must not be left out, nor made up."""
    name, part = {"CLIPTextModel": ("xl", "text_encoder_2")}.get(kind, ("sd", "text_encoder"))
    shutil.copytree(bases[name], tmp_path / "base")
    index = tmp_path / "base" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {part: ["transformers", kind]}))
    with pytest.raises(Refusal, match=f"does not hold a {part}: 1 of its weights do not fit, the first is text_proj"):
        load_base(str(tmp_path / "base"), denoises=False)


def test_encoders_in_the_wrong_order_are_refused(bases, tmp_path):
    shutil.copytree(bases["xl"], tmp_path / "base")
    first, second = tmp_path / "base" / "text_encoder", tmp_path / "base" / "text_encoder_2"
    first.rename(tmp_path / "first")
    second.rename(first)
    (tmp_path / "first").rename(second)
    with pytest.raises(Refusal, match="does not hold a text_encoder_2: .*text_projection"):
        load_base(str(tmp_path / "base"), denoises=False)
