import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from single_file import save_single_file
from tiny import drawn, moved, pipeline, pipeline_xl, saved, saved_xl, unet, unet_xl

from diffpo.adapters import LoRA
from diffpo.diffusion.bases import load_base
from diffpo.refusal import Refusal


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
    with pytest.raises(Refusal, match=f"base.scheduler .*{next(iter(wrong))}.* is not what DDIMScheduler takes"):
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
