import resource
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest
import tiny
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file

from diffpo.core.refusal import Refusal
from diffpo.diffusion.pipelines.negative_mixing import mix_negative, opened_base


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    tiny.unet().save_pretrained(root / "base" / "unet")
    tiny.moved(tiny.unet(), seed=1).save_pretrained(root / "good" / "unet")
    tiny.moved(tiny.unet(), seed=2).save_pretrained(root / "bad" / "unet")
    tiny.unet(cross_attention_dim=24).save_pretrained(root / "wide" / "unet")
    tiny.unet().half().save_pretrained(root / "half" / "unet")
    return root


def mixed(world, output_dir: Path, base: str = "base", negative: str = "bad", positive: str | None = "good", **given):
    side = None if positive is None else str(world / positive)
    return mix_negative(str(world / base), str(world / negative), output_dir, side, **given)


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return UNet2DConditionModel.from_pretrained(folder, subfolder="unet").state_dict()


def test_what_is_written_loads_as_a_unet_and_is_what_was_asked_for(world, tmp_path):
    told = mixed(world, tmp_path / "out", alpha=0.5, mix=0.25)
    base, good, bad = (loaded(world / name) for name in ("base", "good", "bad"))
    result = loaded(tmp_path / "out")
    for name, theta in base.items():
        by_hand = theta + 0.5 * (good[name] - theta) + 0.25 * (bad[name] - theta)
        torch.testing.assert_close(result[name], by_hand, rtol=1e-6, atol=1e-7)
    flat, start = (torch.cat([x.flatten() for x in state.values()]) for state in (result, base))
    assert told.path == tmp_path / "out" / "unet"
    assert told.tensors == len(base)
    assert told.relative == pytest.approx(float((flat - start).norm() / start.norm()), rel=1e-4)


def test_scales_of_nought_and_one_give_the_files_back_bit_for_bit(world, tmp_path):
    for alpha, mix, name in [(0.0, 0.0, "base"), (1.0, 0.0, "good"), (0.0, 1.0, "bad")]:
        mixed(world, tmp_path / name, alpha=alpha, mix=mix)
        given = loaded(world / name)
        assert all(torch.equal(tensor, given[key]) for key, tensor in loaded(tmp_path / name).items())


def test_shards_load_like_one_file(world, tmp_path):
    mixed(world, tmp_path / "one")
    mixed(world, tmp_path / "many", shard_size=20_000)
    assert len(list((tmp_path / "many" / "unet").glob("diffusion_pytorch_model-*-of-*.safetensors"))) > 2
    whole = loaded(tmp_path / "one")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in loaded(tmp_path / "many").items())
    mixed(world, tmp_path / "again", negative=str(tmp_path / "many"), positive=None)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in loaded(tmp_path / "again").items())


@pytest.mark.parametrize("shard_size", [10**9, 20_000])
def test_a_difference_and_the_base_are_the_negative(world, tmp_path, shard_size):
    told = mixed(world, tmp_path / "part", alpha=0.5, mix=0.25, difference=True, shard_size=shard_size)
    whole = mixed(world, tmp_path / "whole", alpha=0.5, mix=0.25)
    mixed(world, tmp_path / "sum", negative=str(tmp_path / "part"), positive=None)
    result = loaded(tmp_path / "sum")
    for name, tensor in loaded(tmp_path / "whole").items():
        torch.testing.assert_close(result[name], tensor, rtol=1e-6, atol=1e-7)
    assert told.relative == pytest.approx(whole.relative, rel=1e-4)
    with safe_open(next((tmp_path / "part").glob("difference*.safetensors")), "pt") as file:
        assert file.metadata()["diffpo"] == "difference"


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ({}, torch.float16),
        ({"dtype": torch.bfloat16}, torch.bfloat16),
        ({"difference": True}, torch.float32),
        ({"difference": True, "dtype": torch.float16}, torch.float16),
    ],
    ids=str,
)
def test_weights_keep_the_bases_type_and_differences_are_fp32_unless_told(world, tmp_path, given, dtype):
    mixed(world, tmp_path / "out", base="half", **given)
    (file,) = (tmp_path / "out").rglob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(file).values()} == {dtype}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"negative": "wide"},
            r"wide is for another architecture: its .*attn2.to_k.weight is \(8, 24\), the base's \(8, 16\)",
        ),
        ({"positive": "wide"}, "wide is for another architecture"),
        ({"negative": "nowhere"}, "Cannot load weights from '.*nowhere'"),
        ({"base": "nowhere"}, "Cannot load weights from '.*nowhere'"),
        ({"negative": "good"}, "good is given as positive and as negative"),
    ],
    ids=lambda given: str(given)[:30],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(world, tmp_path, given, message):
    with pytest.raises(Refusal, match=message):
        mixed(world, tmp_path / "out", **given)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(world, tmp_path):
    (tmp_path / "precious").touch()
    with pytest.raises(Refusal, match="is not empty and is not overwritten; choose another one"):
        mixed(world, tmp_path)


def test_a_base_without_config_or_safetensors_says_what_it_needs(world, tmp_path):
    (tmp_path / "diffusion_pytorch_model.bin").touch()
    with pytest.raises(Refusal, match="has no network in safetensors .*save_pretrained"):
        opened_base(str(tmp_path))
    weights = (world / "base" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(weights)
    with pytest.raises(Refusal, match="has no config.json beside its weights"):
        opened_base(str(tmp_path))


def run_out_of_disk(world, output_dir: Path, told) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    try:
        mixed(world, output_dir)
    except Refusal as error:
        told.send(str(error))


def test_a_full_disk_leaves_nothing_behind(world, tmp_path):
    told, end = get_context("fork").Pipe()
    process = get_context("fork").Process(target=run_out_of_disk, args=(world, tmp_path / "out", end))
    process.start()
    process.join(60)
    assert told.poll()
    assert "out could not be written (" in told.recv()
    assert list(tmp_path.iterdir()) == []
